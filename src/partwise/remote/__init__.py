"""How servers talk: frames, links over byte streams, authentication.

Nothing received is executed: frames are checked field by field, control messages decode
into fixed types. Tensors are numpy arrays; torch is not imported here.
"""
