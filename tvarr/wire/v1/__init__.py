# Made by `python -m tvarr.wire.generate` from proto/tvarr/v1/ffmpegd.proto. Do not edit.
"""Generated code of the wire protocol."""
