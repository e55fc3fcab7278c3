"""The few pieces of HTML that the report is made of. Every text goes through `escape` exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2328 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #d0d7de }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere }
table { border-collapse: collapse; margin: .8rem 0 }
th, td { padding: .2rem .7rem; border: 1px solid #d0d7de }
th { background: #f6f8fa; text-align: left }
td { text-align: right; font-variant-numeric: tabular-nums }
td:first-child { text-align: left }
table.facts td, #failed td { text-align: left; overflow-wrap: anywhere }
img { max-width: 100% }
p.note, figcaption { color: #59636e }
div.pair { display: flex; gap: .6rem }
div.pair figure { margin: 0; flex: 1 }
ul { margin: .3rem 0 }
video { max-width: 100%; background: #000 }
div.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .7rem }
div.tiles { margin: 1.2rem 0 }
div.tiles div { border: 1px solid #d0d7de; border-radius: .4rem; padding: .6rem 1rem }
div.tiles b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; white-space: nowrap }
div.tiles span { color: #59636e }
p.warning { background: #fff8c5; border: 1px solid #d4a72c; border-radius: .3rem; padding: .4rem .8rem }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document from parts that are HTML already; nothing is loaded from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(level: int, text: str) -> str:
    """<h1>, <h2>, ..."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """What a reader must know of the part above or below."""
    return f'<p class="note">{escape(text)}</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table with the id `name`; the first cell of a row says what it is."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table id="{escape(name)}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values, without a header."""
    body = "\n".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<table id="facts" class="facts">\n{body}\n</table>'


def image(source: str, text: str) -> str:
    """A picture; text: what it shows, for those who cannot see it."""
    return f'<img src="{escape(source)}" alt="{escape(text)}" loading="lazy">'


def video(source: str, poster: str = "") -> str:
    """A video file, with the browser's controls; poster: picture that is shown before it plays."""
    shown = f' poster="{escape(poster)}"' if poster else ""
    return f'<video src="{escape(source)}"{shown} controls muted loop preload="metadata"></video>'


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """The few numbers that a reader looks for first: (value, what it is) each."""
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in numbers
    )
    return f'<div class="tiles">{cells}</div>'


def warning(text: str) -> str:
    """What a reader must not miss."""
    return f'<p class="warning">{escape(text)}</p>'


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def pair(*pictures: tuple[str, str]) -> str:
    """Pictures side by side: (source, caption) each."""
    figures = "".join(
        f"<figure>{image(source, text)}<figcaption>{escape(text)}</figcaption></figure>"
        for source, text in pictures
    )
    return f'<div class="pair">{figures}</div>'
