"""The readable text of an HTML page, with nothing but the standard library."""

import re
from html.parser import HTMLParser

SKIPPED_CLASSES = {"toc", "docnav", "indexterm", "list-of-examples", "list-of-figures"}
SKIPPED_IDS = {"banner", "title"}
SKIPPED_TAGS = {"head", "script", "style"}
BLOCK_TAGS = {"p", "div", "li", "dt", "dd", "td", "th", "tr", "table", "ul", "ol", "dl", "h1", "h2", "h3", "h4", "h5", "br",
              "pre"}
VOID_TAGS = {"br", "hr", "img", "link", "meta", "input", "col"}


class TextOfPage(HTMLParser):
    """Collects a page's paragraphs; navigation and tables of contents are left out, <pre> keeps its line breaks."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs = []
        self.pieces = []
        self.open_tags = []
        self.skipped_from = None  # depth of the outermost element that is being skipped
        self.pre_depth = 0

    def flush(self):
        text = "".join(self.pieces)
        self.pieces.clear()
        text = text.strip("\n").rstrip() if self.pre_depth else re.sub(r"\s+", " ", text).strip()
        if text:
            self.paragraphs.append(text)

    def handle_starttag(self, tag, attributes):
        if tag in BLOCK_TAGS and self.skipped_from is None:
            self.flush()
        if tag in VOID_TAGS:
            return
        attributes = dict(attributes)
        self.open_tags.append(tag)
        classes = set((attributes.get("class") or "").split())
        if self.skipped_from is None and (
                tag in SKIPPED_TAGS or classes & SKIPPED_CLASSES or attributes.get("id") in SKIPPED_IDS):
            self.skipped_from = len(self.open_tags)
        self.pre_depth += tag == "pre"

    def handle_endtag(self, tag):
        if tag in VOID_TAGS or tag not in self.open_tags:
            return
        while True:
            closed = self.open_tags.pop()
            if closed in BLOCK_TAGS and self.skipped_from is None:
                self.flush()
            self.pre_depth -= closed == "pre"
            if self.skipped_from is not None and len(self.open_tags) < self.skipped_from:
                self.skipped_from = None
            if closed == tag:
                return

    def handle_data(self, data):
        if self.skipped_from is None:
            self.pieces.append(data)


def text_of_html(html):
    """The page's text, paragraphs apart by an empty line."""
    parser = TextOfPage()
    parser.feed(html)
    parser.close()
    parser.flush()
    return "\n\n".join(parser.paragraphs) + "\n"
