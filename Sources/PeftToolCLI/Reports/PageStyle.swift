/// The style sheet of all pages: light and dark, from the width of a phone.
///
/// Text has a contrast of 4.5 to 1 or more. Ramps go from the page's colour away: `q0` to `q9` for sizes, `d0` to `d8` for what has two
/// sides.
enum PageStyle {
  /// Colours in the ramp of sizes.
  static let steps = 10
  /// Colours in the ramp with two sides; the middle one is none.
  static let sides = 9

  static let text =
    colours + """
      *{box-sizing:border-box}
      body{font:16px/1.5 system-ui,sans-serif;margin:0;background:var(--page);color:var(--ink);overflow-wrap:anywhere}
      main,footer{max-width:72rem;margin:0 auto;padding:1rem}footer{color:var(--faint);font-size:.85rem}
      h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0 1rem}h2{font-size:1.2rem;margin:2.5rem 0 .5rem}h3{font-size:1rem;margin:1.25rem 0 0}
      p{margin:.25rem 0;max-width:46rem}ul{margin:.25rem 0;padding-left:1.25rem}.faint,caption,dt{color:var(--faint)}
      .verdict{border:1px solid var(--line);border-left:.5rem solid var(--tone);border-radius:.5rem;padding:.75rem 1rem}
      .verdict .word{font-size:1.4rem;font-weight:700;color:var(--tone);margin:0}
      .good{--tone:var(--green)}.warning{--tone:var(--amber)}.bad{--tone:var(--red)}.neutral{--tone:var(--faint)}
      .figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin:1rem 0}
      .figures div{display:flex;flex-direction:column-reverse;justify-content:flex-end;border:1px solid var(--line);border-radius:.5rem;padding:.5rem .75rem}
      .figures dd{margin:0;font-size:1.35rem;font-weight:600}.figures dt{font-size:.85rem}
      .facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:.25rem 2rem;margin:.5rem 0}
      .facts div{display:flex;gap:.75rem;border-bottom:1px solid var(--line);padding:.2rem 0}.facts dt{flex:0 0 7.5rem}.facts dd{margin:0}
      table{border-collapse:collapse;width:100%;font-size:.85rem;margin:.5rem 0}caption{text-align:left;padding:.25rem 0}
      th,td{padding:.25rem .4rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
      th:first-child{text-align:left}tbody th{font-weight:400}
      summary{cursor:pointer;padding:.5rem 0;color:var(--link)}:focus-visible{outline:3px solid var(--link);outline-offset:1px}
      .bar{display:block;background:var(--q6);height:.8rem;min-width:1px}.share{width:45%}
      .kind{display:grid;grid-template:"name range" auto "cells cells" auto/1fr auto;gap:0 1rem;align-items:center;margin:.6rem 0}
      .kind h3{grid-area:name;margin:0;font-size:.85rem;font-weight:600}.range{grid-area:range;font-size:.85rem;color:var(--faint);text-align:right}
      .cells{grid-area:cells}
      .cells{display:grid;grid-template-columns:repeat(auto-fill,minmax(clamp(18px,100%/var(--n),40px),1fr));overflow:clip}
      .c{position:relative;height:24px;border:1px solid var(--page);background:var(--page);text-align:center;font-size:clamp(8px,800px/var(--n,1),12px);line-height:20px}
      .c.none{visibility:hidden}.c.mark{background:var(--page);border:1px dashed var(--faint)}
      .c.alarm{background:var(--page);border:2px solid var(--red);color:var(--red);font-weight:700;line-height:18px}
      label.c{cursor:pointer;outline:1px solid var(--line);outline-offset:-1px}
      .c input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:pointer}
      .c:hover,.c:focus-within{outline:3px solid var(--link);outline-offset:-2px;z-index:1}
      .tip{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
      .c:hover .tip,.c input:focus~.tip{position:fixed;left:0;right:0;bottom:0;width:auto;height:auto;clip-path:none;white-space:normal;
      z-index:9;background:var(--ink);color:var(--page);padding:.6rem 1rem;font-size:.95rem;line-height:1.4;text-align:center;font-weight:400}
      .c:hover .tip{z-index:10}
      @media (hover:none){.c input:checked~.tip{position:fixed;left:0;right:0;bottom:0;width:auto;height:auto;clip-path:none;
      white-space:normal;z-index:8;background:var(--ink);color:var(--page);padding:.6rem 1rem;font-size:.95rem;line-height:1.4}}
      .axis .c{height:16px;font-size:11px;line-height:16px;color:var(--faint);text-align:left;overflow:visible;white-space:nowrap;background:none}
      .legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:center;font-size:.85rem;color:var(--faint);margin:.5rem 0}
      .legend span{display:inline-flex;align-items:center;gap:.35rem}.legend i{display:inline-block;width:18px;height:18px;
      outline:1px solid var(--line);outline-offset:-1px;font-style:normal;text-align:center;font-size:12px;line-height:18px}
      .legend .ramp{gap:0}.legend .ramp b{font-weight:400;padding:0 .35rem}
      .plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem}
      figure{margin:0;border:1px solid var(--line);border-radius:.5rem;padding:.5rem}figcaption{font-size:.85rem}
      figcaption span{color:var(--faint)}svg{display:block;width:100%;height:auto}svg text{fill:var(--faint);font-size:11px}
      .texts caption{white-space:pre-wrap;font-weight:600}.texts th{width:6rem}.texts td{text-align:left;white-space:pre-wrap}
      .grid{stroke:var(--line)}.curve{fill:none;stroke-width:1.5}circle{stroke:none}.dot{fill:var(--amber)}
      @media (min-width:60rem){.kind{grid-template:"name cells range" auto/13rem minmax(0,1fr) 9rem;margin:.15rem 0}.cells{grid-template-columns:repeat(auto-fill,minmax(clamp(7px,100%/var(--n),40px),1fr))}}
      @media (prefers-reduced-motion:no-preference){.c{transition:outline-color .1s}}
      @media print{details>*{display:block}}
      """ + ramps

  private static let colours = """
    :root{--page:#fff;--ink:#1b1f24;--faint:#57606a;--line:#d5dae0;--link:#0b57d0;--green:#0a6b3a;--amber:#8a5300;--red:#b3261e;
    --q0:#eff4fc;--q1:#dbe7f8;--q2:#c4d8f3;--q3:#a9c6ec;--q4:#8bb1e3;--q5:#6b99d8;--q6:#4c80ca;--q7:#3167b6;--q8:#1c4f9c;--q9:#0c387c;
    --d0:#8f3b00;--d1:#c0601c;--d2:#e19a5c;--d3:#f3cfa8;--d4:#f1f2f4;--d5:#bcd6ee;--d6:#7fb0dd;--d7:#3d80bf;--d8:#0f4f8a}
    @media (prefers-color-scheme:dark){:root{--page:#14171c;--ink:#e7eaee;--faint:#a3acb8;--line:#343b45;--link:#8ab4f8;--green:#6fd89b;
    --amber:#f2c14e;--red:#ff8f86;
    --q0:#1c232e;--q1:#21304a;--q2:#263d63;--q3:#2d4b7c;--q4:#375b95;--q5:#456dae;--q6:#5a84c6;--q7:#779ddb;--q8:#9bb9ec;--q9:#c6d9fb;
    --d0:#ffb77a;--d1:#e08d45;--d2:#a8622a;--d3:#654022;--d4:#262b33;--d5:#27445f;--d6:#2f6796;--d7:#4b93cf;--d8:#8cc4f5}}

    """

  private static let ramps =
    (0..<steps).map { ".q\($0){background:var(--q\($0))}.s\($0){stroke:var(--q\($0));fill:var(--q\($0))}" }.joined()
    + ".curve{fill:none}" + (0..<sides).map { ".d\($0){background:var(--d\($0))}" }.joined()
}
