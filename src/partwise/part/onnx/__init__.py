"""The ONNX runner: one graph per part, of ONNX Runtime's fused operators, on the CPU."""
