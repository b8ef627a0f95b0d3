"""What the pages link to outside of ``docs/`` comes into the site beside them: experiments, results, code.

Links are those that work in the repository, such as ``../experiments/sweep/README.md``; in the site the
same files lie one folder lower.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SHOWN = (
    *(f"experiments/*/{name}" for name in ("README.md", "*.csv", "*.png", "*.json", "*.txt")),
    *("experiments/*/*/*.csv", "experiments/*/*/*.json"),
    *("benchmarks/results/*", "CHANGELOG.md", "CONTRIBUTING.md"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages may link to."""
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave ``docs/`` point to where those files lie in the site."""
    if page.file.src_uri in ("CHANGELOG.md", "CONTRIBUTING.md"):
        # The repository shows a folder's README by itself.
        markdown = re.sub(r"\]\((experiments/\w+)\)", r"](\1/README.md)", markdown)
        return markdown.replace("](docs/", "](")
    return markdown if "/" in page.file.src_uri else markdown.replace("](../", "](")
