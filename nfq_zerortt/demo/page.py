"""The result as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from html import escape

from nfq_zerortt.demo import dots, overview
from nfq_zerortt.demo.result import (
    DIRECT,
    FASTOPEN,
    FIGURES,
    HOLD,
    LAST_BYTE_BACK,
    Connection,
    Figure,
    Result,
    Run,
)
from nfq_zerortt.demo.terminal import diagram_of, sysctl_text
from nfq_zerortt.demo.verdict import (
    ONE_CLOCK,
    first_contact,
    gain_text,
    is_gain,
    refused,
    sentences,
)
from nfq_zerortt.demo.work import BULK, FIRST, SMALL, Work
from nfq_zerortt.observe import ladder, ladder_svg, sheet, svg, timeseq
from nfq_zerortt.observe.records import Tap, of_connection

_STYLE = """
body { max-width: 68rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .5rem 0; }
.lead { color: var(--muted); }
.verdict { border-left: 4px solid var(--hold); padding: .1rem 0 .1rem .9rem; margin: 1rem 0; }
.verdict p:nth-child(-n+2) { font-size: 1.08rem; }
.bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
.wide { overflow-x: auto; }
th, td { padding: .28rem .7rem .28rem 0; }
td.number, th.number { text-align: right; }
thead th, tr.group th { border-bottom: 1px solid var(--grid); }
tr.group th { padding-top: .9rem; }
.panels {
  display: grid; gap: 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(23rem, 100%), 1fr));
}
figure { background: var(--panel); border-radius: 6px; padding: .7rem; }
figure .halo { stroke: var(--panel); }
figcaption { color: var(--muted); font-size: .9rem; margin-top: .4rem; }
h3 { font-size: 1rem; margin: 1rem 0 0; }
figure h3 { margin: 0 0 .4rem; }
tbody th { font-weight: 400; }
tr.group th { font-weight: 600; }
.hero { max-width: 46rem; margin: .8rem 0; }
.top .verdict { margin-top: 0; }
@media (min-width: 62rem) {
  .top { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; align-items: start; }
  .top .hero { margin-top: 0; }
}
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; }
nav a, a { color: var(--hold); }
ul { margin: .3rem 0; padding-left: 1.2rem; max-width: 46rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .5rem 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--panel); border-radius: 6px; padding: .7rem;
  font: 12px/1.35 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; margin-top: .6rem; }
@media (max-width: 30rem) {
  body { font-size: 15px; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(3, 1fr) ; gap: 0 .6rem; padding: .25rem 0; }
  tr + tr { border-top: 1px solid var(--grid); }
  th, td, td.number { padding: 0; text-align: left; }
  tr.group th, tbody th { grid-column: 1 / -1; border: 0; }
  td[data-of^="gain"] { grid-column: span 3; }
  td[data-of]::before { content: attr(data-of) ": "; color: var(--muted); font-size: .8rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
}
@media print {
  html { font-size: 12px; }
  body { font-size: 1rem; padding: 0; max-width: none; }
  p, ul { max-width: none; }
  p, li, dl { break-inside: avoid; }
  figure svg { max-height: 20cm; }
  .panels:has(h3) { break-before: page; }
  h2, h3, p:has(+ .panels) { break-after: avoid; }
  figure, tr, .verdict, .panels { break-inside: avoid; }
  .panels { grid-template-columns: 1fr 1fr; gap: .5rem; }
  details, nav { display: none; }
  .hero { max-width: 13cm; }
  .top { display: block; }
}
"""

_STYLES = {DIRECT: "a", HOLD: "b", FASTOPEN: "c"}

_TRUE = (
    "connect() returns in the time that the client's packets take to clientnic and back, "
    "whatever the distance to the server.",
    "The client application sends its first byte one round trip earlier, and does its own work "
    "while the handshake with the server is still under way. Both applications are unmodified.",
    "hold works with every server: the server sees an ordinary handshake with an ordinary client.",
    "fastopen carries the first segment of the request in the SYN (TCP Fast Open, RFC 7413): the "
    "server answers it at once, and the answer's first byte is at the client one round trip "
    "earlier, end to end. The server's host must accept Fast Open (a sysctl); its application "
    "is as before.",
    "fastopen's first contact learns the server's cookie, and is as hold. The direct runs were "
    "made with the very same server, on the same host with the same sysctl.",
)
_NOT_TRUE = (
    "hold does not shorten the exchange itself: a request that is ready at once "
    "reaches the server, and its answer the client, no earlier than direct.",
    "A connect() that returned does not say that the server is there: clientnic answered. If the "
    "server refuses, the client sees a reset connection instead of a refused one.",
    "fastopen gains nothing on what needs more than the request's first segment, and nothing "
    "where the server's host does not accept Fast Open: it is then as hold.",
    "Data in a SYN may be delivered to the server application twice, if the network doubles the "
    "SYN (RFC 7413, section 2): leave it off for requests that must not be made twice.",
    "What is shown holds for this emulated network, on one machine, at the time named below.",
)


def page(result: Result) -> str:
    """Return the whole file."""
    title = (
        f"TCP over {result.family} through nfq_zerortt and direct, "
        f"at a round trip of {result.rtt_ms:g} ms"
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(result))}</p>',
        f'<figure class="hero">{overview.hosts(result)}</figure>',
        _outcome(result),
        _contents(),
        _heading("In one picture"),
        '<div class="top">',
        _overview(result),
        '<div class="verdict">',
        *(f"<p>{escape(sentence)}</p>" for sentence in sentences(result)),
        "</div></div>",
        _heading("The figures"),
        _table(result),
        f"<p>{escape(ONE_CLOCK)}</p>",
        _meanings(),
        _heading("Their distribution"),
        _distributions(result),
        _heading("One real connection each way"),
        _ladders(result),
        _heading("The bytes over time"),
        _plots(result),
        _heading("What is true of the gain, and what is not"),
        "<h3>True</h3>",
        _list(_TRUE),
        "<h3>Not true</h3>",
        _list(_NOT_TRUE),
        _heading("Environment"),
        _environment(result),
        _heading("Do it again"),
        f"<pre>{escape(_command(result))}</pre>",
        "<p>As root, on Linux; it makes network namespaces of its own and removes them.</p>",
    ]
    style = _STYLE + svg.STYLE + overview.STYLE + ladder_svg.STYLE + timeseq.STYLE + dots.STYLE
    return sheet.document(title, style, body)


_ONLY_ONE = (
    "There is one first contact each way: what stands there is no median, and a difference "
    "may be chance."
)

_SECTIONS = (
    "In one picture",
    "The figures",
    "Their distribution",
    "One real connection each way",
    "The bytes over time",
    "What is true of the gain, and what is not",
    "Environment",
    "Do it again",
)


def _anchor(section: str) -> str:
    return "-".join(section.lower().replace(",", "").split())


def _heading(section: str) -> str:
    assert section in _SECTIONS
    return f'<h2 id="{_anchor(section)}">{escape(section)}</h2>'


def _contents() -> str:
    links = (f'<a href="#{_anchor(one)}">{escape(one)}</a>' for one in _SECTIONS)
    return f"<nav>{' '.join(links)}</nav>"


def _overview(result: Result) -> str:
    work = result.work(SMALL)
    caption = (
        f"Medians in ms of {work.connections} connections each way: {work.title}. Dashed: the "
        "client waits for connect(). Filled: the request is on its way or held, until its first "
        "byte arrives at the server. Outlined: the answer is. With hold the client is free sooner, "
        "and the answer comes when it came before; with fastopen the answer itself comes sooner."
    )
    if refused(result) is not None:
        caption = caption.partition(" With hold")[0]
    return (
        f'<figure class="hero">{overview.draw(result, work)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _lead(result: Result) -> str:
    return (
        "The same work was done three times by the same two unmodified applications over four "
        "hosts, client, clientnic, servernic and server: first direct, then with nfq-zerortt run "
        "--strategy hold on clientnic, then with --strategy fastopen. The server's host has "
        f"net.ipv4.tcp_fastopen = {sysctl_text(result)} in all of them. {_date(result)}."
    )


def _date(result: Result) -> str:
    return result.environment.date.replace("T", " ").replace("+00:00", " UTC")


def _outcome(result: Result) -> str:
    if result.ok:
        count = sum(len(run.connections) for run in result.runs)
        return (
            f'<p class="good">All {count} connections complete; SHA-256 equal at both ends, '
            "in both directions, all three ways.</p>"
        )
    return "".join(f'<p class="bad">FAILED {escape(text)}</p>' for text in result.problems)


def _table(result: Result) -> str:
    head = (
        '<thead><tr><th>median, ms</th><th class="number">direct</th>'
        '<th class="number">hold</th><th class="number">fastopen</th>'
        "<th>gain of hold, ms</th><th>gain of fastopen, ms</th></tr></thead>"
    )
    rows = []
    for work in result.works:
        plural = "s" if work.connections > 1 else ""
        count = f"{work.title} ({work.connections} connection{plural} each way)"
        rows.append(f'<tr class="group"><th colspan="6">{escape(count)}</th></tr>')
        rows += [_table_row(result, work, figure) for figure in _figures(work)]
    table = f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
    lines = [line for line in (_ONLY_ONE, refused(result)) if line is not None]
    return table + "".join(f"<p>{escape(line)}</p>" for line in lines)


def _table_row(result: Result, work: Work, figure: Figure) -> str:
    gains = ""
    for through in result.through_service:
        gain = result.gain_ms(through, work, figure)
        # On a narrow screen the line shall break before the number of round trips.
        shown = escape(gain_text(gain, result.rtt_ms)).replace(" RTT", "\u00a0RTT")
        if gain is not None and is_gain(gain, result.rtt_ms) and work.connections > 1:
            shown = f'<span class="good">{shown}</span>'
        gains += f'<td data-of="gain of {through.way}, ms">{shown}</td>'
    medians = ((run.way, run.median(work, figure)) for run in result.runs)
    cells = "".join(
        f'<td class="number" data-of="{way}">{"-" if value is None else f"{value:.1f}"}</td>'
        for way, value in medians
    )
    return f'<tr><th scope="row">{escape(figure.name)}</th>{cells}{gains}</tr>'


def _figures(work: Work) -> tuple[Figure, ...]:
    return (*FIGURES, LAST_BYTE_BACK) if work.key == BULK else FIGURES


def _meanings() -> str:
    return _definitions((f.name, f.meaning + ".") for f in (*FIGURES, LAST_BYTE_BACK))


def _distributions(result: Result) -> str:
    return _panels(
        f"<figure>{dots.draw(result, work, _figures(work))}</figure>"
        for work in result.works
        if work.key != FIRST and any(run.of(work) for run in result.runs)
    )


def _ladders(result: Result) -> str:
    figures, texts = [], []
    for title, run, connection in _drawn(result):
        diagram = diagram_of(result, run, connection)
        if diagram is None:
            continue
        legend = "<br>".join(escape(line) for line in diagram.legend())
        figures.append(
            f"<figure><h3>{escape(title)}</h3>{ladder_svg.draw(diagram, title)}"
            f"<figcaption>{legend}</figcaption></figure>"
        )
        texts += [title, *ladder.render(diagram, width=100), *diagram.legend(), ""]
    if not figures:
        return "<p>No connection of this kind succeeded.</p>"
    words = (
        "Drawn from the packets captured at each host: the connection in the middle, by the time "
        "of its first byte back, and fastopen's first contact. Numbers count from the ISN that the "
        "letter stands for. A dashed arrow is a packet that clientnic made itself; a bar is the "
        "time during which clientnic held a packet, or kept the SYN back for the request. The "
        "other waits, on servernic, are the WAN. The way down is in steps, not "
        "to scale: the times stand at the left."
    )
    return (
        f"<p>{escape(words)}</p>{_panels(figures)}"
        f"<details><summary>The same as text</summary><pre>{escape(chr(10).join(texts))}</pre>"
        "</details>"
    )


def _drawn(result: Result) -> list[tuple[str, Run, Connection | None]]:
    """Return what is drawn as a ladder: title, run, connection (None: the run's typical one)."""
    names = {
        DIRECT: "Direct",
        HOLD: "Through the service, hold",
        FASTOPEN: "Through the service, fastopen",
    }
    found: list[tuple[str, Run, Connection | None]] = [
        (names[run.way], run, None) for run in result.runs
    ]
    first = first_contact(result.fastopen)
    if first is not None:
        found.append(("fastopen's first contact: it learns the cookie", result.fastopen, first))
    return found


def _plots(result: Result) -> str:
    client_tap, server_tap = result.path[0].left, result.path[-1].right
    figures = []
    for work in (result.work(SMALL), result.work(BULK)):
        values = [v for run in result.runs for v in run.values(work, LAST_BYTE_BACK)]
        for tap, where in ((client_tap, "at the client"), (server_tap, "at the server")):
            curves = [curve for run in result.runs for curve in _curves(result, run, work, tap)]
            if curves:
                title = f"{work.title}, {where}"
                plot = timeseq.draw(curves, title, max(values) * 1.03)
                figures.append(f"<figure>{plot}</figure>")
    if not figures:
        return "<p>No connection of this kind succeeded.</p>"
    words = (
        "One connection of each run: how many bytes of the stream had left or reached that host. "
        "Dashed: direct; solid: hold; heavy: fastopen; a small circle: a segment that brought "
        "nothing further, sent again or overtaken on the way."
    )
    return f"<p>{escape(words)}</p>{_panels(figures)}"


def _curves(result: Result, run: Run, work: Work, tap: Tap) -> list[timeseq.Curve]:
    typical = run.typical(work)
    if typical is None or typical.client is None:
        return []
    client, server = typical.client, result.server
    own = of_connection(run.records, client, server)
    return [
        timeseq.Curve(
            name,
            run.way,
            _STYLES[run.way],
            timeseq.series(own, tap, source, destination, own[0].time_s),
        )
        for name, source, destination in (("request", client, server), ("answer", server, client))
    ]


def _environment(result: Result) -> str:
    found = result.environment
    late = found.lateness
    entries = [
        ("date", _date(result)),
        ("nfq_zerortt", found.version),
        ("kernel", f"Linux {found.kernel}"),
        ("Python", found.python),
        ("CPUs", _processors(found.cpus, found.load)),
        ("WAN", f"round trip {result.rtt_ms:g} ms by {found.wan} on servernic, no loss, no limit"),
    ]
    if late is not None:
        entries.append(
            (
                "its own lateness",
                f"{late.median_ms:.2f} ms median, {late.p95_ms:.2f} p95, {late.p99_ms:.2f} p99, "
                f"{late.max_ms:.2f} max",
            )
        )
    entries.append(
        ("TCP", f"over {result.family}, congestion control {found.congestion_control}, MTU 1500")
    )
    entries.append(("net.ipv4.tcp_fastopen", f"{sysctl_text(result)} on the server's host"))
    for run in result.through_service:
        service = run.service
        if service is None or service.synack_latency_us is None:
            continue
        entries.append(
            (
                f"spoofed SYN-ACK, {run.way}",
                f"{service.synack_latency_us / 1000:.2f} ms (median) after the SYN was read from "
                f"the queue, in {service.flows_spoofed} flows (the service's own log)",
            )
        )
    for run in result.runs:
        captured = sum(count.captured for count in run.captures.values())
        dropped = sum(count.dropped for count in run.captures.values())
        entries.append(
            (
                f"captured, {run.way}",
                f"{captured} packets on {len(run.captures)} interfaces of the four hosts, "
                f"{dropped} dropped by the kernel",
            )
        )
    return _definitions(entries)


def _processors(cpus: int, load: float) -> str:
    text = f"{cpus}, load average before the runs {load:.2f}"
    if load <= cpus:
        return text
    return f"{text}: a busy machine, and what was measured has waited for a processor, too"


def _command(result: Result) -> str:
    rtt = f"{result.rtt_ms:g}ms"
    family = ("--ipv6",) if result.family == "IPv6" else ()
    command = ("nfq-zerortt", "demo", "--rtt", rtt, *family, "--report", "demo-report.html")
    return shlex.join(command)


def _panels(figures: Iterable[str]) -> str:
    return f'<div class="panels">{"".join(figures)}</div>'


def _list(entries: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(entry)}</li>" for entry in entries) + "</ul>"


def _definitions(entries: Iterable[tuple[str, str]]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries)
        + "</dl>"
    )
