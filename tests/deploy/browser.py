"""A real Chromium without a window, driven over its DevTools protocol: JSON between null bytes, on two pipes."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.workers import wait_until

# The browser reads commands from descriptor 3 and writes answers to 4.
_ON_PIPES = 'exec "$@" 3<&"$LURM_COMMANDS" 4>&"$LURM_ANSWERS"'
_CELLS = """[...document.querySelectorAll(%s + " tr")].map((row) => [...row.cells].map((cell) => cell.textContent))"""


class Page:
    """One page, which lives on between the questions: what it fetches meanwhile, it shows."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = os.fdopen(answers, "rb")
        self._unread = b""
        self._n = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> Any:
        """What the browser answers; events are passed over."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._n:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url: str) -> None:
        """Load a page anew, also when only its fragment differs."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.js("location.href !== 'about:blank' && document.readyState") == "complete")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """The text within the element, or nothing."""
        return self.js(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")

    def rows(self, selector: str) -> list[dict[str, str]]:
        """A table's rows by its head."""
        head, *rows = self.js(_CELLS % json.dumps(selector)) or [[]]
        return [dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)]

    def press(self, *keys: str) -> None:
        """Type into whatever has the focus: characters, or Enter."""
        for key in keys:
            pressed: dict[str, Any] = {"key": key, "text": "\r" if key == "Enter" else key}
            pressed |= {"windowsVirtualKeyCode": 13} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **pressed)
            self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def screenshot(self, width: int) -> bytes:
        """The whole page as PNG."""
        size = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", height=800, **size)
        self.call("Emulation.setDeviceMetricsOverride", height=self.js("document.documentElement.scrollHeight"), **size)
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def _next(self) -> Any:
        while b"\0" not in self._unread:
            read = self._answers.read1(1 << 16)
            assert read, "the browser is gone"
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


@contextmanager
def browsing(chromium: str, folder: Path) -> Iterator[Page]:
    """A browser with a profile of its own and one page; ended by its own pid."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
               f"--user-data-dir={folder / 'profile'}", "about:blank"]  # fmt: skip
    with ExitStack() as stack:
        for_browser, commands = os.pipe()
        answers, from_browser = os.pipe()
        stack.callback(os.close, commands)
        log = stack.enter_context((folder / "chromium.log").open("wb"))
        environment = os.environ | {"LURM_COMMANDS": str(for_browser), "LURM_ANSWERS": str(from_browser)}
        browser = subprocess.Popen(["bash", "-c", _ON_PIPES, "bash", *command], env=environment, stdout=log,
                                   stderr=log, pass_fds=(for_browser, from_browser))  # fmt: skip
        stack.callback(browser.wait, 30)
        stack.callback(browser.terminate)
        os.close(for_browser)
        os.close(from_browser)
        page = Page(commands, answers)
        stack.callback(page._answers.close)
        yield page
