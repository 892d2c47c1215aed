"""The frame of a page: one HTML file that loads nothing and runs nothing.

Its content security policy forbids everything but its own style sheet, which it names by its hash, and, where a page
holds pictures, those that stand in the file itself.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape


def document(title: str, style: str, body: Iterable[str], *, pictures: bool = False) -> str:
    """A whole page as text.

    Args:
        title: of the window, as plain text.
        style: the style sheet.
        body: pieces of HTML, in their order; what comes from a user must be escaped already.
        pictures: whether ``data:`` pictures may be shown.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'{'; img-src data:' if pictures else ''}"
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"
