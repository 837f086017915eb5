"""Compressed pictures are decoded by a process of their own.

The decoders are C and C++: a damaged picture can end the process they run in, hang it, ask for
more memory than there is, or be filled up in grey with no more than a line on stderr. All four
end here in an error, and the next picture is decoded by a new process. One process serves all
pictures of the process that started it, and ends with it.

This file is also the script that process runs; it imports nothing of the project.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any, BinaryIO

import numpy as np

SECONDS = 120.0  # for one file
MEMORY = 12 << 30  # bytes one decoder may ask for
COMPLAINTS = ("corrupt", "premature", "invalid", "bad huffman", "unexpected")


class Decoder:
    """`decode(path)` gives the pixels of a file; raises ValueError where they are damaged."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, path: str, syntax: str, seconds: float = SECONDS) -> np.ndarray:
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            process.stdin.write(json.dumps([os.path.abspath(path), syntax]).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            answer: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            if "shape" in answer:
                pixels = np.empty(answer["shape"], answer["dtype"])
                if _read_into(process.stdout, pixels) == pixels.nbytes:
                    return pixels
                answer = {}
        except (BrokenPipeError, ValueError):
            answer = {}
        finally:
            timer.cancel()
        if "error" in answer:
            raise ValueError(answer["error"])
        self.close()
        if late.is_set():
            raise ValueError(f"decoding takes longer than {seconds:g} s")
        raise ValueError("the picture makes its decoder crash")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._process.wait()
            self._process = None


def _read_into(stream: Any, pixels: np.ndarray) -> int:
    """Fill the array from a pipe; returns the number of bytes there were."""
    view, got = pixels.reshape(-1).view(np.uint8).data, 0
    while got < len(view) and (n := stream.readinto(view[got:])):
        got += n
    return got


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode the file named in each line: one line of JSON, then the bytes of the pixels."""
    import resource

    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryFile() as told:
        os.dup2(told.fileno(), 2)  # what the libraries write on stderr
        for line in requests:
            path, syntax = json.loads(line)
            start = os.lseek(2, 0, os.SEEK_END)
            try:
                dataset = pydicom.dcmread(path, force=True)
                if "TransferSyntaxUID" not in dataset.file_meta:
                    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
                pixels = np.ascontiguousarray(dataset.pixel_array)
                told.seek(start)
                heard = told.read().decode("utf-8", "replace").strip()
                if any(word in heard.lower() for word in COMPLAINTS):
                    raise ValueError(heard.splitlines()[0])
            except Exception as error:  # a damaged file makes decoders raise anything
                text = str(error).splitlines()[0] if str(error) else repr(error)
                answers.write(json.dumps({"error": text}).encode() + b"\n")
            else:
                head = {"shape": pixels.shape, "dtype": pixels.dtype.str}
                answers.write(json.dumps(head).encode() + b"\n")
                answers.write(pixels.data)
            answers.flush()


decoder = Decoder()
atexit.register(decoder.close)

if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
