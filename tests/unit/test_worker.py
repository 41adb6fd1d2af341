"""A worker starts without torch, and whoever needs torch gets the real one."""

import subprocess
import sys

IMPORT_CODEC = "import sys; from lookalike.worker import import_codec; codec = import_codec(); "


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", IMPORT_CODEC + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_codec_is_imported_without_torch():
    assert run("print('torch' in sys.modules, 'torch._C' in sys.modules)") == "False False"


def encoding(reply: str) -> str:
    return f"reply = codec.create_predict_response([{reply}], {{0: 'id'}}, 'ok', 200); "


def test_a_reply_of_bytes_is_encoded_without_torch():
    assert run(encoding("b'body'") + "print(b'body' in reply, 'torch' in sys.modules)") == "True False"


def test_a_reply_that_is_a_tensor_is_still_encoded_by_the_real_torch():
    assert run("import torch; " + encoding("torch.ones(2)") + "print(len(reply) > 200)") == "True"
