"""A real S3 server (moto) on a free port, in this process: it can be stopped, and started again with its objects."""

import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

KEY, SECRET = "test-key", "test-secret"


class S3Server:
    """The server, and its objects as an operator sees them, without any of the code under test."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it logs every request
        self._port = 0
        self._start()
        self.bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self._client.create_bucket(Bucket=self.bucket)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def url(self, folder: str) -> str:
        return f"s3://{self.bucket}/{folder}"

    def stop(self) -> None:
        """Stop listening: connections are refused from now on."""
        self._server.stop()
        self._server._server.server_close()

    def start_again(self) -> None:
        self._start()

    def names(self, prefix: str = "") -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [entry["Key"] for entry in found]

    def get(self, name: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self.bucket, Key=name)["Body"].read())

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=name)

    def alter(self, name: str) -> None:
        """Flip one bit in the middle of an object."""
        data = bytearray(self.get(name))
        data[len(data) // 2] ^= 1
        self.put(name, bytes(data))

    def digest(self) -> str:
        """Return a sha256 over all names and contents."""
        total = hashlib.sha256()
        for name in self.names():
            total.update(f"{name} {hashlib.sha256(self.get(name)).hexdigest()}\n".encode())
        return total.hexdigest()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which any S3 client finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        self._client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(retries={"max_attempts": 0}),
        )


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server that this process's own S3 clients find by their environment."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "LOOKALIKE_STORE_"))]:
            patch.delenv(name)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.stop()
