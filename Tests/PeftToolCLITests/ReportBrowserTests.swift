import Foundation
import TensorFiles
import TestSupport
import Testing

/// Pages in Debian's chromium; without it the tests say so and are skipped.
@Suite(.serialized, .enabled(if: FileSystem.kind("/usr/bin/chromium") == .file, "chromium is not installed"))
struct ReportBrowserTests {
  /// What a browser was shown.
  struct View: Sendable, CustomTestStringConvertible {
    let name: String
    let words: [String]
    let code: Int32
    let width: Int
    let isDark: Bool

    var testDescription: String { "\(name), \(width) px, \(isDark ? "dark" : "light")" }
  }

  static let views: [View] = {
    let (merge, several) = (Fixtures.path("merge/llama-f32-qv"), Fixtures.path("several/lora-f32"))
    let pages: [(String, [String], Int32)] = [
      (
        "adapter",
        [
          "inspect", Fixtures.path("merge/llama-bf16-all-linear/adapter"), "--base",
          Fixtures.path("merge/llama-bf16-all-linear/base"),
        ],
        0
      ),
      ("comparison", ["inspect", "\(several)/one", "--compare", "\(several)/two"], 0),
      ("diff", ["diff", "\(merge)/base", "\(merge)/merged"], 1),
      ("verify", ["verify", "\(merge)/base", "\(merge)/adapter", "\(merge)/merged"], 0),
    ]
    return pages.enumerated().flatMap { index, page in
      [(420, true), (1400, false), (420, false), (1400, true)].prefix(index < 2 ? 4 : 2).map { width, isDark in
        View(name: page.0, words: page.1, code: page.2, width: width, isDark: isDark)
      }
    }
  }()

  @Test(arguments: views)
  func aBrowserShowsTheReportWithoutErrorsOverflowOrPaleText(view: View) async throws {
    let scratch = try ScratchDirectory()
    #expect(await run(view.words + ["--report", scratch("page.html")]).code == view.code)
    let probed = try probedCopy(of: scratch("page.html"), width: view.width, in: scratch)
    let (dom, log) = try chromium(probed, view, scratch)
    #expect(!log.contains("CONSOLE"), "\(log)")
    let found = try #require(answer(dom))
    #expect(found["width"]?.integerValue == view.width && found["dark"] == .bool(view.isDark))
    // Closed and with every detail open.
    #expect(found["overflow"]?.compactText == "[0,0]", "\(found.compactText)")
    #expect(found["texts"]?.integerValue ?? 0 > 20)
    #expect(found["pale"]?.elements?.isEmpty == true, "\(found.compactText)")
    #expect(found["outside"]?.elements?.isEmpty == true, "\(found.compactText)")
    #expect(found["tip"] == .bool(true), "\(found.compactText)")
  }

  @Test(arguments: [420, 1400])
  func aBrowserShowsTheReportOfAHundredLayersWithoutScrollingSideways(width: Int) async throws {
    let scratch = try ScratchDirectory()
    let names = ["self_attn.q_proj", "mlp.up_proj", "a_module_with_a_name_that_is_longer_than_a_phone_is_wide_by_far"]
    let adapter = try manyModules(
      (0..<100).flatMap { layer in names.map { "model.layers.\(layer).\($0)" } }, in: scratch)
    let view = View(name: "layers", words: ["inspect", adapter], code: 0, width: width, isDark: true)
    #expect(await run(view.words + ["--report", scratch("page.html")]).code == 0)
    let (dom, _) = try chromium(try probedCopy(of: scratch("page.html"), width: width, in: scratch), view, scratch)
    let found = try #require(answer(dom))
    #expect(
      found["overflow"]?.compactText == "[0,0]" && found["outside"]?.elements?.isEmpty == true, "\(found.compactText)")
    // On a wide screen a row is one line.
    #expect(found["lines"]?.integerValue == 1 || width < 1000, "\(found.compactText)")
  }

  /// The page as it is, with its own policy.
  @Test func aBrowserShowsTheReportAndLetsNothingElseIn() async throws {
    let scratch = try ScratchDirectory()
    let view = Self.views[0]
    #expect(await run(view.words + ["--report", scratch("page.html")]).code == 0)
    let (dom, log) = try chromium(scratch("page.html"), view, scratch)
    #expect(!log.contains("CONSOLE") && dom.contains("Healthy"), "\(log)")
    let text = try FileSystem.text(scratch("page.html"))
    try overwrite(scratch("loads.html"), text.replacing("<footer>", with: "<script>1</script><footer>"))
    let (_, refused) = try chromium(scratch("loads.html"), view, scratch)
    #expect(refused.contains("CONSOLE") && refused.contains("Content Security Policy"))
  }

  /// The page with a script at its end that looks at it and writes what it found.
  private func probedCopy(of page: String, width: Int, in scratch: ScratchDirectory) throws -> String {
    let probe = """
      <script>
      const luminance = c => { const v = c.slice(0, 3).map(x => { x /= 255; return x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 });
        return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
      const colour = s => (s.match(/[\\d.]+/g) || []).map(Number);
      const behind = e => { for (; e; e = e.parentElement) { const c = colour(getComputedStyle(e).backgroundColor);
        if (c.length == 3 || c[3] > 0) return c } return [255, 255, 255] };
      const overflow = () => document.documentElement.scrollWidth - innerWidth;
      const found = { width: innerWidth, dark: matchMedia('(prefers-color-scheme:dark)').matches, overflow: [overflow()],
        pale: [], outside: [], texts: 0 };
      for (const e of document.querySelectorAll('details')) e.open = true;
      found.overflow.push(overflow());
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = walker.currentNode, e = node.parentElement;
        if (!node.data.trim() || e.closest('.tip,script,title')) continue;
        found.texts++;
        const style = getComputedStyle(e), range = document.createRange();
        range.selectNodeContents(node);
        const box = range.getBoundingClientRect();
        const ink = colour(e instanceof SVGElement ? style.fill : style.color), page = behind(e);
        const [a, b] = [luminance(ink), luminance(page)].sort((x, y) => y - x);
        if ((a + .05) / (b + .05) < 4.5 || (ink.length > 3 && ink[3] < 1)) found.pale.push(node.data.trim().slice(0, 40));
        if (box.width < 1 || box.height < 7 || box.left < 0 || box.right > innerWidth + 1 || style.visibility != 'visible')
          found.outside.push(node.data.trim().slice(0, 40));
      }
      const row = document.querySelector('.map .kind:not(.axis) .cells');
      found.lines = new Set([...row.children].map(e => e.getBoundingClientRect().top)).size;
      const cell = document.querySelector('.map input');
      cell.focus();
      const tip = cell.parentElement.querySelector('.tip').getBoundingClientRect();
      const isShown = tip.height > 15 && tip.width > 100 && tip.bottom <= innerHeight + 1 && tip.right <= innerWidth + 1;
      // A window in the background has an active element, which it does not show as focused.
      found.tip = document.activeElement == cell && (isShown || !cell.matches(':focus'));
      const result = parent.document.createElement('pre');
      result.textContent = 'PROBE' + JSON.stringify(found) + 'EBORP';
      parent.document.body.append(result);
      </script></body>
      """
    let text = try FileSystem.text(page).replacing("</body>", with: probe)
      .replacing("content=\"default-src 'none'; style-src 'unsafe-inline'\"", with: "content=\"\"")
    // A frame, because a window is no narrower than 500.
    let framed = text.replacing("&", with: "&amp;").replacing("\"", with: "&quot;")
    let path = scratch("probed.html")
    try overwrite(
      path,
      """
      <!DOCTYPE html><meta name="color-scheme" content="light dark"><body style="margin:0">
      <iframe style="border:0" width="\(width)" height="900" srcdoc="\(framed)"></iframe></body>
      """)
    return path
  }

  private func answer(_ dom: String) -> JSONValue? {
    guard let start = dom.range(of: "<pre>PROBE"), let end = dom.range(of: "EBORP</pre>") else { return nil }
    let text = dom[start.upperBound..<end.lowerBound].replacing("&amp;", with: "&").replacing("&lt;", with: "<")
      .replacing("&gt;", with: ">")
    return JSONValue(parsing: String(text))
  }

  private func chromium(_ page: String, _ view: View, _ scratch: ScratchDirectory) throws -> (dom: String, log: String)
  {
    let browser = Process()
    browser.executableURL = URL(fileURLWithPath: "/usr/bin/chromium")
    browser.arguments = [
      "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=\(scratch("profile"))",
      "--window-size=1400,900", "--blink-settings=preferredColorScheme=\(view.isDark ? 0 : 1)",
      "--enable-logging=stderr", "--dump-dom", "file://\(page)",
    ]
    // Files rather than pipes, which one could fill while the other is read.
    let (output, error) = (scratch("dom.txt"), scratch("log.txt"))
    for path in [output, error] { try overwrite(path, "") }
    browser.standardOutput = FileHandle(forWritingAtPath: output)
    browser.standardError = FileHandle(forWritingAtPath: error)
    try browser.run()
    browser.waitUntilExit()
    #expect(browser.terminationStatus == 0)
    return (try FileSystem.text(output), try FileSystem.text(error))
  }
}
