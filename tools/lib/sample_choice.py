"""Which tokens of a source become calibration samples (prepare_calibration.py; docs/calibration-format.md has the modes)."""

import random

import text_sources
from text_sources import SourceError


def draw_windows(stream, args, name):
    """Random windows, at the positions the literature's loaders draw from the same seed."""
    if len(stream) < args.seqlen:
        raise SourceError(f"{name} has {len(stream)} tokens, fewer than one window of {args.seqlen}: lower --seqlen, or "
                          "give more text")
    generator = random.Random(args.seed)
    starts = [generator.randint(0, max(0, len(stream) - args.seqlen - 1)) for _ in range(args.nsamples)]
    return [stream[start: start + args.seqlen] for start in starts]


def draw_windows_inside(documents, args):
    """Random windows of random documents that are longer than a window."""
    generator = random.Random(args.seed)
    windows, misses = [], 0
    while len(windows) < args.nsamples:
        ids = documents.encode(generator.randint(0, len(documents.texts) - 1))
        if len(ids) > args.seqlen:
            start = generator.randint(0, len(ids) - args.seqlen - 1)
            windows.append(ids[start: start + args.seqlen])
            misses = 0
        elif (misses := misses + 1) > 20000:
            raise SourceError(f"{documents.name} has hardly a document of more than {args.seqlen} tokens: lower --seqlen")
    return windows


def cut_contiguous(stream, args, name):
    available = len(stream) // args.seqlen
    wanted = args.nsamples or available
    if available == 0 or wanted > available:
        raise SourceError(f"{name} has {len(stream)} tokens, which is {available} windows of {args.seqlen}, not "
                          f"{max(wanted, 1)}: lower --nsamples or --seqlen, or give more text")
    return [stream[i * args.seqlen: (i + 1) * args.seqlen] for i in range(wanted)]


def pack_rows(documents, args):
    """Rows joined in their order, with the separator between them, and cut into samples of equal length; what is left
    over is dropped."""
    separator = documents.tokenizer.encode(args.separator, add_special_tokens=False).ids if args.separator else []
    stream = []
    for row in documents.rows():
        if len(row) < args.min_length:
            continue
        stream += (separator if stream else []) + row
        if len(stream) >= args.nsamples * args.seqlen:
            break
    available = len(stream) // args.seqlen
    if available < args.nsamples:
        raise SourceError(f"{documents.name} packs into {available} samples of {args.seqlen} tokens, not {args.nsamples}: "
                          "lower --nsamples, --seqlen or --min-length, or give more rows")
    return [stream[i * args.seqlen: (i + 1) * args.seqlen] for i in range(args.nsamples)]


def sort_rows(rows, order):
    """Equally long rows keep their order."""
    if order == "as_is":
        return rows
    return sorted(rows, key=len, reverse=order == "longest")


def pick_rows(rows, args, name):
    rows = [row[: args.seqlen] for row in rows if len(row) >= args.min_length]
    if len(rows) < args.nsamples:
        raise SourceError(f"{name} has {len(rows)} rows of at least {args.min_length} tokens, not {args.nsamples}: lower "
                          "--nsamples or --min-length, or give more rows")
    chosen = sorted(random.Random(args.seed).sample(range(len(rows)), args.nsamples))
    return sort_rows([rows[i] for i in chosen], args.sort)


def draw_samples(documents, args):
    if args.contiguous:
        return cut_contiguous(documents.stream(), args, documents.name)
    if args.pack:
        return pack_rows(documents, args)
    if args.mode == "rows":
        return pick_rows(documents.rows(), args, documents.name)
    if documents.ids is None and documents.name in text_sources.WINDOWS_INSIDE_DOCUMENTS:
        return draw_windows_inside(documents, args)
    return draw_windows(documents.stream(), args, documents.name)
