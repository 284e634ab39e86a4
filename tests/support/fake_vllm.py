"""A server process that speaks vLLM's endpoints over a tiny real model, and misbehaves when told to.

Started as vLLM is (`... serve MODEL --port N ...`, through EM_VLLM), with faults from FAKE_VLLM, several by commas:
`crash` (ends at once), `mute` (never healthy), `dies=N` (ends at the N-th completion, the first time it is started in
FAKE_VLLM_STATE), `no-op` (takes adapters and leaves them out), `base=NAME` (serves another base's weights under the
name asked for), `ends=3+4` (takes these tokens for ends by itself), `no-token-ids`, `nan`.
"""

import argparse
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = dict(part.partition("=")[::2] for part in os.environ.get("FAKE_VLLM", "").split(",") if part)


class Model:
    """A base with adapters on it, one request at a time."""

    def __init__(self, base: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model: Any = AutoModelForCausalLM.from_pretrained(FAULTS.get("base", base), dtype=torch.float32).eval()
        self.adapters: dict[str, str] = {}
        self.own_ends = [int(token) for token in FAULTS.get("ends", "").split("+") if token]
        self.lock = threading.Lock()

    def load(self, name: str, folder: str) -> None:
        from peft import PeftModel

        with self.lock:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(folder, adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name).eval()
            self.adapters[name] = folder

    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        import torch

        adapted = request["model"] in self.adapters and "no-op" not in FAULTS
        generator = torch.Generator().manual_seed(request["seed"] % 2**63)
        tokens: list[int] = []
        logprobs: list[float] = []
        tops: list[dict[str, float]] = []
        with self.lock, torch.inference_mode():
            if adapted:
                self.model.set_adapter(request["model"])
            for _ in range(request["max_tokens"]):
                ids = torch.tensor([[*request["prompt"], *tokens]])
                if self.adapters and not adapted:
                    with self.model.disable_adapter():
                        row = self.model(ids, use_cache=False).logits[0, -1]
                else:
                    row = self.model(ids, use_cache=False).logits[0, -1]
                raw = row.float().log_softmax(-1)
                if request["temperature"] == 0:
                    token = int(raw.argmax())
                else:
                    probabilities = (row.float() / request["temperature"]).softmax(-1)
                    token = int(torch.multinomial(probabilities, 1, generator=generator))
                tokens.append(token)
                logprobs.append(float("nan") if "nan" in FAULTS else float(raw[token]))
                top = raw.topk(request.get("logprobs") or 1)
                tops.append({f"token_id:{i}": float(v) for i, v in zip(top.indices, top.values, strict=True)})
                # As vLLM does: its own idea of the end, unless told to leave that.
                ends = [] if request.get("ignore_eos") else self.own_ends
                if token in [*request["stop_token_ids"], *ends]:
                    break
        choice: dict[str, Any] = {
            "index": 0,
            "text": "",
            "finish_reason": "length" if len(tokens) == request["max_tokens"] else "stop",
        }
        if "no-token-ids" not in FAULTS:
            choice["token_ids"] = tokens
        if request.get("logprobs") is not None:
            names = [f"token_id:{token}" for token in tokens]
            choice["logprobs"] = {"tokens": names, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": []}
        usage = {"prompt_tokens": len(request["prompt"]), "completion_tokens": len(tokens), "total_tokens": 0}
        return {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]} | {
            "usage": usage
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    arguments, others = parser.parse_known_args()
    print("arguments", others, flush=True)
    if "crash" in FAULTS:
        sys.exit("ValueError: No available memory for the cache blocks")
    if "mute" in FAULTS:
        time.sleep(600)
    state = Path(os.environ.get("FAKE_VLLM_STATE", os.devnull))
    first = "dies" in FAULTS and not state.exists()
    if "dies" in FAULTS:
        state.touch()
    model = Model(arguments.model)
    completions = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Keeps the log short."""

        def send(self, status: int, content: Any) -> None:
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            base = {"id": arguments.served_model_name, "object": "model", "root": arguments.model, "parent": None}
            if self.path == "/health":
                self.send(200, "")
            elif self.path == "/version":
                self.send(200, {"version": "0.26.0-fake"})
            elif self.path == "/v1/models":
                loras = [{"id": n, "root": f, "parent": base["id"]} for n, f in model.adapters.items()]
                self.send(200, {"object": "list", "data": [{**base, "max_model_len": 2048}, *loras]})
            else:
                self.send(404, {"error": {"message": "no such path"}})

        def do_POST(self) -> None:
            nonlocal completions
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/load_lora_adapter":
                if request["lora_name"] in model.adapters:
                    self.send(400, {"error": {"message": "The lora adapter has already been loaded."}})
                    return
                model.load(request["lora_name"], request["lora_path"])
                self.send(200, f"Success: LoRA adapter '{request['lora_name']}' added successfully.")
                return
            completions += 1
            if first and completions >= int(FAULTS["dies"]):
                os._exit(1)
            if request["model"] not in (arguments.served_model_name, *model.adapters):
                self.send(404, {"error": {"message": f"The model `{request['model']}` does not exist.", "code": 404}})
                return
            self.send(200, model.complete(request))

    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
