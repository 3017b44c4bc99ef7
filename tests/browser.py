"""A headless Chromium, driven through two pipes by its DevTools protocol: nothing listens on any port."""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SECONDS = 60  # after which a browser that says nothing has failed


class Browser:
    """One page of a browser.

    Attributes:
        problems: errors in the console, exceptions and requests that left the machine's files, as texts.
    """

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        self._folder, self._number, self._received = folder, 0, b""

    def __enter__(self) -> "Browser":
        assert PROGRAM is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # Chromium reads commands from 3 and writes answers to 4.
        switches = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                script,
                PROGRAM,
                *switches.split(),
                "--remote-debugging-pipe",
                f"--user-data-dir={self._folder}",
            ],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._session = None
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def __call__(self, method: str, **parameters: object) -> dict:
        """Send a command and return its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]

    def open(self, path: Path, *, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Open a file in a window of this size, and wait until it is drawn."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self("Page.navigate", url=path.as_uri())
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(path.as_uri())}")
        self.drawn()

    def value(self, expression: str) -> object:
        """Return what JavaScript makes of an expression."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + _SECONDS
        while not self.value(condition):
            assert time.monotonic() < until, condition
            time.sleep(0.02)

    def drawn(self) -> None:
        """Wait until what was asked for is on the screen."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")

    def click(self, x: float, y: float) -> None:
        """Click there."""
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.drawn()

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        text = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40}.get(key, ord(key[0].upper()))
        self("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.drawn()

    def _message(self) -> dict:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], _SECONDS)
            assert ready, "the browser says nothing"
            some = os.read(self._answers, 1 << 20)
            assert some, "the browser has ended"
            self._received += some
        text, self._received = self._received.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, found: dict) -> None:
        if event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(found["exceptionDetails"]))
        elif event == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.problems.append(json.dumps(found["entry"]))
        elif event == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(found["args"]))
        elif event == "Network.requestWillBeSent" and not found["request"]["url"].startswith("file:"):
            self.problems.append(found["request"]["url"])
