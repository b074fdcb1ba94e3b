"""Schemathesis over the OpenAPI document of a real coordinator: nothing but what the document says, and no 5xx."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.harness import PASSWORD, cluster

LIMIT_S = 180
EXAMPLES = 15
SEED = 20261128
ENDLESS = "^/(api/v1/events$|stream/)"  # streams say 502 where a source can't be reached, as made-up ones can't

# Left out: `positive_data_acceptance` and `negative_data_rejection`, as a schema can't say that a URL must be of a
# known scheme and that null means "not set"; `allow_header_conformance`, as paths with and without a variable share a
# route; `ignored_auth`, whose wrong passwords end in 429 (tests/coordinator/test_api_access.py asks without one).
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "missing_required_header", "unsupported_method", "use_after_free"),
)


def test_the_api_keeps_to_its_description(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        running.start_daemon("worker")
        program = Path(sys.executable).with_name("schemathesis")
        command = [
            str(program),
            "run",
            f"{running.url}/api/openapi.json",
            "--header",
            f"Authorization: Bearer {PASSWORD}",
        ]
        command += [
            "--exclude-path-regex",
            ENDLESS,
            "--phases",
            "coverage,fuzzing,stateful",
            "--checks",
            ",".join(CHECKS),
        ]
        command += ["--max-examples", str(EXAMPLES), "--seed", str(SEED), "--request-timeout", "20", "--no-color"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        tested = re.search(r"Tested: (\d+)", done.stdout)
        assert tested is not None
        assert int(tested[1]) >= 20
        log = running.roles["coordinator"].text()
    assert "Traceback" not in log
