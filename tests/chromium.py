"""Headless Chromium for tests, driven through its DevTools protocol over a pipe: no driver and no network."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), " ": (32, " "), "ArrowRight": (39, "")}


class Chromium:
    """One page of one browser. `errors` gathers what the console and the page complain of."""

    def __init__(self):
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert program, "chromium is not installed; `make test` installs it, or: apt-get install chromium"
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command_out, self._to = os.pipe()
        self._from, answers_in = os.pipe()
        # Chromium reads commands from file descriptor 3 and answers on 4.
        words = [
            "bash",
            "-c",
            f'exec "$@" 3<&{command_out} 4>&{answers_in}',
            "chromium",
            program,
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            "--window-size=1200,1500",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            words, pass_fds=(command_out, answers_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(command_out)
        os.close(answers_in)
        self._numbers, self._buffer, self._session = itertools.count(1), b"", None
        self.errors, self._loaded = [], False
        (page,) = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Call a method of the protocol; its answer, after gathering the events that came before."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 20)
            assert part, "chromium has ended"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(parameters["exceptionDetails"])
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.errors.append(parameters["args"])
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.errors.append(parameters["entry"])
            case "Page.loadEventFired":
                self._loaded = True
            case "Page.javascriptDialogOpening":
                self.errors.append(parameters)
        return message

    def open(self, path):
        """Load a file; return the seconds until its load event."""
        began, self._loaded = time.perf_counter(), False
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        while not self._loaded:
            self._receive()
        return time.perf_counter() - began

    def evaluate(self, expression):
        """Value of a JavaScript expression (of a promise: what it resolves to) in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key):
        """Press a key as a person does: the page sees trusted events."""
        code, text = KEYS[key]
        common = {"key": key, "code": key.strip() or "Space", "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path, scheme="light", width=1200, height=1500, media="screen"):
        """Picture (PNG) of the top of the page in a colour scheme."""
        self.send(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self):
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()
