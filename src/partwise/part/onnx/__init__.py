"""The ONNX runner: one graph per part, of ONNX Runtime's fused operators, on the CPU.

ONNX Runtime sends what it measures to its makers unless it is told otherwise before it is
imported: nothing that partwise deploys is reported to anybody. What the user has set stays.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
