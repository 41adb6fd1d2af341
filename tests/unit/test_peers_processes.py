"""Whatever a server starts is measured with it and ended with it, daemons that left their parent too."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A server whose helper left it as daemons do, ignores SIGTERM, and burns CPU for half a second.
SERVER = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        block = bytearray(os.urandom(1)) * 50_000_000
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(60)
"""
# Run in a process of its own: it adopts orphans, and ends all that is below it.
TEST = """
import json, sys, time
from pathlib import Path
from benchmarks.peers import processes
processes.LEFT_S = 0.5
processes.adopt_orphans()
said, log = Path(sys.argv[2]), Path(sys.argv[3])
meter = processes.CpuMeter()
with processes.running([sys.executable, "-c", sys.argv[1], str(said)], {}, log) as server:
    while not said.exists() or not said.read_text():
        time.sleep(0.02)
    inside = [process.pid for process in processes.descendants()]
    cpu_s, others_share = meter.read()
    memory_mb = processes.descendants_memory_mb()
print(json.dumps({"server": server.pid, "daemon": int(said.read_text()), "inside": inside, "cpu_s": cpu_s,
                  "others_share": others_share, "memory_mb": memory_mb,
                  "left": [process.pid for process in processes.descendants()]}))
"""


def test_a_daemon_of_the_server_is_found_measured_and_ended(tmp_path):
    command = [sys.executable, "-c", TEST, SERVER, str(tmp_path / "pid"), str(tmp_path / "log")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert sorted(told["inside"]) == sorted([told["server"], told["daemon"]])
    assert 0.5 <= told["cpu_s"] < 5
    assert 0 <= told["others_share"] <= 1
    assert 50 < told["memory_mb"] < 500
    assert told["left"] == []
    assert not Path(f"/proc/{told['daemon']}").exists()
