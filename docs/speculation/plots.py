#!/usr/bin/env python3
"""Draws the pictures of docs/speculation.md. Python's standard library only.

    foreword bench speculate ... --json > docs/speculation/NAME.json     (see the page for the command lines)
    python3 docs/speculation/plots.py

writes tree.svg, and from the files beside it speed.svg (auto.json), efficiency.svg (order.json) and cost.svg (cost.json).
"""
import json
import math
from pathlib import Path

HERE = Path(__file__).parent
INK, GREY, COLOURS = "#222", "#999", {"rsd-s": "#1b6ca8", "rsd-c": "#2a9d8f", "independent": "#e9a23b", "chain": "#c0504d"}


def svg(name, width, height, parts):
    style = "font-family='system-ui, sans-serif' font-size='12'"
    body = "\n".join(parts)
    text = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {style}>\n<rect width='{width}' height='{height}' fill='white'/>\n{body}\n</svg>\n"
    (HERE / name).write_text(text)


def text(x, y, s, fill=INK, anchor="middle", extra=""):
    s = s.replace("&", "&amp;").replace("<", "&lt;")
    return f"<text x='{x:.1f}' y='{y:.1f}' fill='{fill}' text-anchor='{anchor}' {extra}>{s}</text>"


def line(x1, y1, x2, y2, colour=GREY, width=1.0, dash=""):
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width}' stroke-dasharray='{dash}'/>"


def tree():
    """A round: guesses, what verification says of them, and the bonus token."""
    # name: (word, parent, x, y, state)
    nodes = {
        "root": ("sat", None, 60, 120, "text"),
        "a": ("on", "root", 190, 70, "yes"), "b": ("down", "root", 190, 180, "unseen"),
        "c": ("a", "a", 320, 30, "no"), "d": ("the", "a", 320, 100, "yes"), "e": ("by", "b", 320, 180, "unseen"),
        "f": ("mat", "d", 450, 75, "no"), "g": ("sofa", "d", 450, 130, "no"),
        "h": ("rug", "d", 580, 100, "bonus"),
    }
    fill = {"text": "#eee", "yes": "#cfe8d5", "no": "#f6d5d3", "unseen": "white", "bonus": "#d5e3f6"}
    parts = []
    for word, parent, x, y, state in nodes.values():
        if parent:
            _, _, px, py, _ = nodes[parent]
            parts.append(line(px + 30, py, x - 30, y, INK if state in ("yes", "bonus") else GREY, 2 if state == "yes" else 1, "5 4" if state == "bonus" else ""))
    for word, parent, x, y, state in nodes.values():
        parts.append(f"<rect x='{x - 30}' y='{y - 14}' width='60' height='28' rx='6' fill='{fill[state]}' stroke='{GREY}'/>")
        parts.append(text(x, y + 4, word))
    for x, s in [(60, "last token"), (190, "level 1"), (320, "level 2"), (450, "level 3"), (580, "from the residual")]:
        parts.append(text(x, 225, s, GREY))
    for i, (state, s) in enumerate([("yes", "accepted"), ("no", "rejected"), ("unseen", "not reached"), ("bonus", "emitted at the end of the round")]):
        x = 60 + i * 130
        parts.append(f"<rect x='{x}' y='243' width='14' height='14' rx='3' fill='{fill[state]}' stroke='{GREY}'/>")
        parts.append(text(x + 20, 254, s, INK, "start"))
    svg("tree.svg", 680, 270, parts)


def load(name):
    path = HERE / name
    return json.loads(path.read_text()) if path.exists() else None


def speed(report):
    """Adaptive speculation beside plain decoding, category by category."""
    rows = [r for r in report["rows"] if r["method"] == "auto"]
    top = max(2.0, max(r["speedup"] for r in rows) * 1.05)
    left, right, step = 130, 600, 24
    scale = (right - left) / top
    height = 40 + step * len(rows) + 30
    parts = []
    for i in range(0, int(top * 2) + 1):
        x = left + i / 2 * scale
        parts += [line(x, 20, x, height - 30, INK if i == 2 else "#ddd", 1.5 if i == 2 else 1), text(x, height - 12, f"{i / 2:g} x", GREY)]
    for i, r in enumerate(rows):
        y = 30 + i * step
        parts += [text(left - 8, y + 12, r["category"], INK, "end"), f"<rect x='{left}' y='{y}' width='{r['speedup'] * scale:.1f}' height='16' fill='#1b6ca8' opacity='0.8'/>"]
        parts.append(text(left + r["speedup"] * scale + 6, y + 12, f"{r['speedup']:.2f}", INK, "start"))
    svg("speed.svg", 660, height, parts)


def efficiency(report):
    """Expected tokens a round against the budget, with 95 % confidence, a panel a temperature."""
    parts, width, height = [], 240, 220
    rows = [r for r in report["means"] if r["budget"].isdigit()]
    budgets = sorted({int(r["budget"]) for r in rows})
    low, high = 1.25, math.ceil(max(r["mean"] + r["confidence"] for r in rows) * 4) / 4
    at_y = lambda v: 30 + (high - v) / (high - low) * (height - 70)
    for column, temperature in enumerate(sorted({r["temperature"] for r in rows})):
        x0 = 50 + column * width
        at_x = lambda b: x0 + 8 + (b - budgets[0]) / (budgets[-1] - budgets[0]) * (width - 86)
        parts.append(text(x0 + (width - 70) / 2, 18, f"temperature {temperature}"))
        for i in range(round((high - low) * 4) + 1):
            v = low + i / 4
            parts += [line(x0, at_y(v), x0 + width - 70, at_y(v), "#ddd"), text(x0 - 6, at_y(v) + 4, f"{v:g}", GREY, "end")]
        parts += [text(at_x(b), height - 22, str(b), GREY) for b in budgets]
        for k, (method, colour) in enumerate(COLOURS.items()):
            mine = sorted((int(r["budget"]), r["mean"], r["confidence"]) for r in rows if (r["temperature"], r["method"]) == (temperature, method))
            points = [(at_x(b) + 2 * k - 3, at_y(m), at_y(m - c), at_y(m + c)) for b, m, c in mine]
            parts += [line(x, under, x, over, colour) for x, _, under, over in points]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
            parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
    for i, (method, colour) in enumerate(COLOURS.items()):
        parts += [line(60 + i * 130, height - 2, 85 + i * 130, height - 2, colour, 3), text(92 + i * 130, height + 2, method, INK, "start")]
    svg("efficiency.svg", 50 + width * 3, height + 12, parts)


def cost(rows):
    """Time of a forward against its rows, relative to one row."""
    at_x, at_y = (lambda n: 50 + (n - 1) * 26), (lambda c: 200 - (c - 1) * 80)
    parts = [line(50, at_y(v), 440, at_y(v), "#ddd") for v in (1, 1.5, 2, 2.5, 3)]
    parts += [text(44, at_y(v) + 4, f"{v:g} x", GREY, "end") for v in (1, 1.5, 2, 2.5, 3)]
    parts += [text(at_x(n), 220, str(n), GREY) for n in (1, 2, 4, 6, 8, 10, 12, 14, 16)]
    path = " ".join(f"{at_x(r['rows']):.1f},{at_y(r['cost']):.1f}" for r in rows)
    parts.append(f"<polyline points='{path}' fill='none' stroke='#1b6ca8' stroke-width='2'/>")
    parts += [f"<circle cx='{at_x(r['rows'])}' cy='{at_y(r['cost']):.1f}' r='3' fill='#1b6ca8'/>" for r in rows]
    parts.append(text(245, 240, "tokens in a forward"))
    svg("cost.svg", 470, 250, parts)


if __name__ == "__main__":
    tree()
    if auto := load("auto.json"):
        speed(auto)
    if order := load("order.json"):
        efficiency(order)
    if rows := load("cost.json"):
        cost(rows)
