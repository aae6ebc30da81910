"""Runs language models on OpenVINO's paged attention, for tgi-core."""

import sys

# OpenVINO and NNCF report to Intel what is converted unless this package is missing: so it is
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
