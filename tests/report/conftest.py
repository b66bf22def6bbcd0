"""Chromium without a window, driven through its debugging pipe: what a page says, draws and does."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
_WAIT = 90  # s


class Browser:
    """One page in one Chromium.

    Attributes:
        errors: What the page wrote to the console as an error or warning, and exceptions of its scripts.
        requests: Addresses that it asked for.
    """

    def __init__(self, folder, width: int = 1200, height: int = 3000):
        to_read, to_write = os.pipe(), os.pipe()

        def connect():  # Chromium reads from 3 and writes to 4
            ours = [os.dup2(to_read[0], 13), os.dup2(to_write[1], 14)]
            os.dup2(ours[0], 3)
            os.dup2(ours[1], 4)

        command = [PROGRAM, *_FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, close_fds=False, preexec_fn=connect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read[0]), os.close(to_write[1])
        self._out, self._in = to_read[1], to_write[0]
        self._rest, self._number, self._session = b"", 0, None
        self.errors, self.requests = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(20)
        os.close(self._out), os.close(self._in)

    def open(self, path) -> None:
        """Load a file and wait until its page says that all is drawn."""
        self.call("Page.navigate", url=f"file://{path}")
        end = time.monotonic() + _WAIT
        while self.value("document.body && document.body.dataset.drawn || null") is None:
            if time.monotonic() > end or self.errors:
                raise AssertionError(f"not drawn: {self.errors}")
            time.sleep(0.1)

    def value(self, expression: str):
        """What a piece of JavaScript gives; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer to a place of the window, pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path) -> None:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def call(self, method: str, **params) -> dict:
        """One command of the DevTools protocol; events on the way are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._keep(answer.get("method"), answer.get("params", {}))

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], _WAIT)
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise AssertionError("Chromium does not answer")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _keep(self, method: str | None, params: dict) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@pytest.fixture
def chromium(tmp_path_factory):
    """A browser with an empty page; skips where there is none."""
    if PROGRAM is None:
        pytest.skip("there is no Chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
