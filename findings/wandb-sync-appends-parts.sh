#!/usr/bin/env bash
# wandb: an offline run that goes on under the same id is synced as if its second part knew of the first, which it does not.
#
# Guess: a part that repeats the run from its first step takes the place of what an earlier part brought, as with older clients; and
#   the minimum that define_metric asks for is that of the run.
# Found: `wandb sync` asks the server how many lines it has and puts each part behind them, with the steps that follow: what is
#   repeated is there twice, as if it had been measured later. The summary is replaced, and its minimum is that of the last part alone.
# Versions: wandb 0.31.0, 2026-11-29.
# Output seen:
#   wandb 0.31.0
#   steps and losses on the server [(0, 1), (1, 3), (2, 4), (3, 3), (4, 2)], summary {'min': 2, 'last': 2}
#   as stated
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" wandb==0.31.0
export PYTHONPATH=$folder/packages WANDB_API_KEY=0000000000000000000000000000000000000000 WANDB_SILENT=true
export WANDB_CACHE_DIR=$folder WANDB_CONFIG_DIR=$folder WANDB_DATA_DIR=$folder WANDB_DIR=$folder
cat > "$folder/part.py" <<'PYTHON'
import sys

import wandb

run = wandb.init(mode="offline", project="p", id="same", resume="allow")
run.define_metric("loss", summary="min,last")
for step, loss in enumerate(map(float, sys.argv[1:])):
    run.log({"loss": loss}, step=step)
run.finish()
PYTHON
python3 "$folder/part.py" 1 3
sleep 1  # a part is named by its second
python3 "$folder/part.py" 4 3 2
python3 - "$folder" <<'PYTHON'
import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import wandb

lines, summaries = [], []
project = {"id": "1", "name": "p", "entity": {"id": "1", "name": "me"}}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            files = [{"name": name, "uploadUrl": address + "/put"} for name in (asked.get("variables") or {}).get("files") or []]
            counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
            tails = {"historyTail": json.dumps(list(map(json.dumps, lines[-1:]))), "eventsTail": "[]"}
            about = {"id": "same", "name": "same", "config": "{}", "wandbConfig": '{"t": 1}', "project": project}
            bucket = {**about, **counts, **tails, "summaryMetrics": json.dumps(summaries[-1] if summaries else {})}
            answer = {"data": {"model": {**project, "bucket": bucket if lines else None}, "upsertBucket": {"bucket": bucket}}}
            answer["data"] |= {"createRunFiles": {"runID": "same", "uploadHeaders": [], "files": files}}
            answer["data"] |= {"viewer": {"id": "1", "username": "me", "entity": "me", "flags": "{}"}, "serverInfo": {"features": []}}
        elif self.path.endswith("/file_stream"):
            sent = json.loads(body).get("files") or {}
            if history := sent.get("wandb-history.jsonl"):
                lines[history["offset"] :] = map(json.loads, history["content"])
            if summary := sent.get("wandb-summary.json"):
                summaries.append(json.loads(summary["content"][-1]))
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):
        self.do_POST()

    def log_message(self, *about):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
address = f"http://127.0.0.1:{server.server_port}"
threading.Thread(target=server.serve_forever, daemon=True).start()
parts = sorted(Path(sys.argv[1]).glob("wandb/offline-run-*"))
command = [sys.executable, "-m", "wandb", "sync", *map(str, parts)]
subprocess.run(command, check=True, timeout=200, env={**os.environ, "WANDB_BASE_URL": address})
found, summary = [(line["_step"], line["loss"]) for line in lines], summaries[-1]["loss"]
print(f"wandb {wandb.__version__}\nsteps and losses on the server {found}, summary {summary}")
assert found == [(0, 1), (1, 3), (2, 4), (3, 3), (4, 2)]  # the second part has steps 0, 1, 2
assert summary["min"] == 2  # of the run it is 1
print("as stated")
PYTHON
