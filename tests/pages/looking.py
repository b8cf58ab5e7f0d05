"""What a reader would complain of when a page is open: asked of headless Chromium, in its own words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

SMALLEST_FONT = 11.0
"""pixels, as drawn"""
CONTRAST = 4.5
"""of text on its ground: level AA of the Web Content Accessibility Guidelines 2.2"""
MARKS = 3
"""shapes below which a chart is an empty frame"""
TALL = 20_000
"""pixels: the whole page is in sight, so that it can be asked what lies where"""


class Browser:
    """Headless Chromium."""

    def __init__(self) -> None:
        options = Options()
        options.binary_location = _program("chromium")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(_program("chromedriver")))
        self.driver.set_script_timeout(120)  # looking at every word of a long page

    def open(self, page: Path, width: int) -> None:
        """Load a page at a width, with everything unfolded; what was logged before is forgotten."""
        size = {"width": width, "height": TALL, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get_log("browser")
        self.driver.get(page.resolve().as_uri())
        self.driver.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")

    def sections(self) -> dict[str, int]:
        """Heading -> how much stands below it: characters, figures and pictures; in the order of the page."""
        return dict(self.driver.execute_script(_SECTIONS))

    def figures(self) -> list[str]:
        """Captions of the figures that can be seen."""
        return list(self.driver.execute_script(_FIGURES))

    def complaints(self) -> list[str]:
        """Everything that is wrong with the page as it is open; none is what a page is tested for."""
        logged = [
            entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]
        limits = {"font": SMALLEST_FONT, "contrast": CONTRAST, "marks": MARKS}
        found: list[str] = self.driver.execute_script(_COMPLAINTS, limits)
        return [*(f"console: {message}" for message in logged), *found]

    def close(self) -> None:
        self.driver.quit()


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: Debian's package is {name.replace('driver', '-driver')}"
    return found


_SECTIONS = """
const found = []
for (const heading of document.querySelectorAll('h2')) {
    const section = heading.closest('section')
    const words = section.textContent.length - heading.textContent.length
    found.push([heading.textContent, words + section.querySelectorAll('svg, img').length])
}
return found
"""

_FIGURES = """
const seen = figure => {
    const box = figure.querySelector(':scope > svg, img').getBoundingClientRect()
    return box.width >= 50 && box.height >= 30
}
return [...document.querySelectorAll('figure')].filter(seen).map(each => each.querySelector('figcaption').textContent)
"""

_COMPLAINTS: Any = """
const limits = arguments[0], found = []
const complain = (what, where) => found.push(what + ': ' + (where || '').trim().slice(0, 60))

for (const entry of performance.getEntriesByType('resource'))
    if (!entry.name.startsWith('data:')) complain('network', entry.name)
if (document.documentElement.scrollWidth > innerWidth)
    complain('scrolls sideways', document.documentElement.scrollWidth + ' of ' + innerWidth)

// figures that are there and not empty
for (const svg of document.querySelectorAll('svg:not([aria-hidden])')) {
    const box = svg.getBoundingClientRect(), name = svg.getAttribute('aria-label') || 'a chart without a name'
    if (box.width < 50 || box.height < 30) complain('a chart without a size', name)
    const marks = svg.querySelectorAll('path, circle, rect, polyline, polygon, line, image')
    if (marks.length < limits.marks) complain('an empty chart', name)
    if (!svg.getAttribute('aria-label')) complain('a chart that cannot be read out', svg.textContent)
}
for (const image of document.querySelectorAll('img')) {
    if (!image.complete || image.naturalWidth === 0) complain('a broken picture', image.alt)
    if (!image.alt) complain('a picture that cannot be read out', image.src)
}

// colours as [red, green, blue, opacity]
const parse = text => {
    const numbers = (text.match(/[\\d.]+/g) || []).map(Number)
    return numbers.length < 3 ? [0, 0, 0, 0] : [numbers[0], numbers[1], numbers[2], numbers.length > 3 ? numbers[3] : 1]
}
const over = (upper, lower) => [0, 1, 2].map(k => upper[3] * upper[k] + (1 - upper[3]) * lower[k]).concat(1)
const luminance = colour => {
    const linear = colour.slice(0, 3).map(value => {
        const share = value / 255
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}
const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b)
    return (high + 0.05) / (low + 0.05)
}
const painted = element => {
    const style = getComputedStyle(element)
    if (element instanceof SVGElement && element.tagName !== 'svg') {
        if (!(element instanceof SVGGeometryElement) || style.fill === 'none') return [0, 0, 0, 0]
        const colour = parse(style.fill)
        return [...colour.slice(0, 3), colour[3] * style.fillOpacity * style.opacity]
    }
    return parse(style.backgroundColor)
}
const ground = (element, stack) => {
    const layers = []
    for (const below of stack) {
        const colour = painted(below)
        if (colour[3] > 0) layers.push(colour)
        if (colour[3] === 1) break
    }
    return layers.reduceRight((lower, upper) => over(upper, lower), [255, 255, 255, 1])
}
const above = element => element ? [element, ...above(element.parentElement)] : []

const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement
    if (!node.textContent.trim() || ['SCRIPT', 'STYLE', 'title', 'desc'].includes(element.tagName)) continue
    const range = document.createRange()
    range.selectNodeContents(node)
    const box = range.getBoundingClientRect(), style = getComputedStyle(element)
    if (box.width < 1 || box.height < 1 || style.visibility === 'hidden') continue
    const svg = element.closest('svg'), inner = element instanceof SVGElement
    const scale = inner ? Math.hypot(element.getScreenCTM().a, element.getScreenCTM().b) : 1
    const size = parseFloat(style.fontSize) * scale
    if (size < limits.font - 0.01) complain('small text, ' + size.toFixed(1) + ' px', node.textContent)
    if (inner) {
        // the box of a line is higher than its letters
        const frame = svg.getBoundingClientRect(), slack = 0.15 * size
        const beyond = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top,
            box.bottom - frame.bottom)
        if (beyond > slack)
            complain('text outside its figure', node.textContent + ' in ' + svg.getAttribute('aria-label'))
    } else if (!element.closest('.wide') && (box.left < 0 || box.right > innerWidth + 1))
        complain('text outside the page', node.textContent)
    const middle = [box.left + box.width / 2, box.top + box.height / 2]
    const stack = inner ? document.elementsFromPoint(...middle).filter(each => each !== element
        && !element.contains(each)) : above(element)
    const below = ground(element, stack), colour = parse(inner ? style.fill : style.color)
    colour[3] *= style.opacity * (inner ? style.fillOpacity : 1)
    const seen = contrast(over(colour, below), below)
    if (seen < limits.contrast) complain('contrast ' + seen.toFixed(2), node.textContent)
}
return found
"""
"""in the order of what it looks at; `arguments[0]` holds the limits"""
