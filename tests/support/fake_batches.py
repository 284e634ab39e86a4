"""OpenAI's batch interface on top of the fake server: files go in, a finished batch comes out, in another order."""

import json
import re
from collections.abc import Callable
from typing import Any


class Batches:
    """Uploaded files and finished batches of one fake server."""

    def __init__(self, complete: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.complete = complete
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def upload(self, body: bytes) -> dict[str, Any]:
        """Keeps the JSON lines in a multipart upload."""
        lines = re.findall(rb"^\{.*\}\r?$", body, re.MULTILINE)
        name = f"file-{len(self.files)}"
        self.files[name] = b"\n".join(lines)
        return {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "b.jsonl", "purpose": "batch"}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers every line at once, last line first."""
        lines = [json.loads(line) for line in self.files[request["input_file_id"]].splitlines()]
        results = [
            {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": self.complete(line["body"])}}
            for line in reversed(lines)
        ]
        output = f"file-{len(self.files)}"
        self.files[output] = "\n".join(json.dumps(result) for result in results).encode()
        batch = {
            "id": f"batch-{len(self.batches)}",
            "object": "batch",
            "endpoint": request["endpoint"],
            "input_file_id": request["input_file_id"],
            "completion_window": "24h",
            "status": "completed",
            "output_file_id": output,
            "created_at": 0,
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return batch
