"""The README's picture of the console: ``python -m tests.deploy.screenshot FILE``, of two real workers under load."""

import sys
import tempfile
from pathlib import Path

from stream.settings import App
from tests.deploy.browser import browsing
from tests.deploy.console_scene import console_scene
from tests.workers import tiny_bundle, wait_until

WIDTH = 1240
USER = "user-7"
N_EVENTS = 3000


def main(file: Path) -> None:
    """Take it once every part of the page has something to show."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            console_scene(folder, tiny_bundle(scales="day"), n_workers=2, partitions=4, app=App(id="shop")) as scene,
            browsing("chromium", folder) as page,
        ):
            scene.traffic.send(N_EVENTS)
            with scene.traffic.flowing(20):
                page.open(f"{scene.url}/#user={USER}")
                wait_until(lambda: "All is well" in page.text("#status"), explain=lambda: page.text("main"))
                wait_until(lambda: len(scene.api(f"user/{USER}")["embeddings"]) >= 5)
                page.js("document.querySelector('#ask button').click()")
                parts = ('[aria-label="Last embeddings"]', '[aria-label="Nearest users"]', "#partitions", "#workers")
                wait_until(lambda: all(len(page.rows(part)) > 1 for part in parts), explain=lambda: page.text("main"))
                file.write_bytes(page.screenshot(WIDTH))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
