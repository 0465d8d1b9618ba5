internal import PEFT
internal import TensorFiles

/// A page that needs nothing else: one HTML file without a script, whose policy lets it load nothing.
struct Page: Sendable {
  /// What it says first.
  struct Verdict: Sendable {
    /// The colour and the sign that go with the word.
    enum Tone: String, Sendable {
      case good, warning, bad, neutral

      fileprivate var sign: String {
        switch self {
        case .good: "✓"
        case .warning: "!"
        case .bad: "✕"
        case .neutral: "?"
        }
      }
    }

    let tone: Tone
    let word: String
    let reasons: [String]
    var remarks: [String] = []
  }

  /// A number in large type.
  struct Figure: Sendable {
    let value: String
    let name: String
  }

  let title: String
  let verdict: Verdict
  var figures: [Figure] = []
  /// Seconds after which a browser that shows the page reads it again; nil for a page that does not change.
  var secondsToReload: Int?
  private(set) var sections: [HTML] = []

  init(title: String, verdict: Verdict, figures: [Figure] = []) {
    self.title = title
    self.verdict = verdict
    self.figures = figures
  }

  /// Adds a section under a heading.
  /// - Parameter id: names it in links and tests; letters and hyphens.
  mutating func add(_ heading: String, id: String, _ content: HTML) {
    sections.append(
      """
      <section id="\(id)" aria-labelledby="\(id)-heading"><h2 id="\(id)-heading">\(heading)</h2>
      \(content)</section>

      """)
  }

  /// The whole document.
  var html: String {
    let reasons = Self.list(verdict.reasons)
    let remarks: HTML = verdict.remarks.isEmpty ? "" : "<p>Worth a look:</p>\(Self.list(verdict.remarks))"
    let reload: HTML = secondsToReload.map { "<meta http-equiv=\"refresh\" content=\"\($0)\">" } ?? ""
    let document: HTML = """
      <!DOCTYPE html>
      <html lang="en"><head><meta charset="utf-8">\(reload)<title>\(title)</title>
      <meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">
      <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
      <style>\(HTML(stringLiteral: PageStyle.text))</style></head><body><main>
      <h1>\(title)</h1>
      <div id="verdict" class="verdict \(verdict.tone.rawValue)"><p class="word"><span aria-hidden="true">\(verdict.tone.sign)</span> \
      \(verdict.word)</p>\(reasons)\(remarks)</div>
      \(Self.figures(figures))
      \(sections)</main>
      <footer>peft-tool \(CommandTable.version)</footer></body></html>

      """
    return document.markup
  }

  private static func list(_ lines: [String]) -> HTML {
    guard lines.count != 1 else { return "<p>\(lines[0], limit: 600)</p>" }
    return lines.isEmpty ? "" : "<ul>\(lines.map { "<li>\($0, limit: 600)</li>" as HTML })</ul>"
  }

  /// Numbers in large type, side by side.
  static func figures(_ figures: [Figure]) -> HTML {
    guard !figures.isEmpty else { return "" }
    let items = figures.map { "<div><dt>\($0.name)</dt><dd>\($0.value)</dd></div>" as HTML }
    return "<dl class=\"figures\">\(items)</dl>"
  }

  /// Names and values.
  static func facts(_ rows: [[String]]) -> HTML {
    let items = rows.filter { $0.count > 1 }.map { "<div><dt>\($0[0])</dt><dd>\($0[1], limit: 600)</dd></div>" as HTML }
    return "<dl class=\"facts\">\(items)</dl>"
  }

  /// Rows under a header, the first column of which is text and the others numbers.
  static func table(_ header: [String], _ rows: [[String]], caption: String) -> HTML {
    let head = header.map { "<th scope=\"col\">\($0)</th>" as HTML }
    let body = rows.map { row in
      let cells = row.dropFirst().map { "<td>\($0)</td>" as HTML }
      return "<tr><th scope=\"row\">\(row.first ?? "")</th>\(cells)</tr>\n" as HTML
    }
    return "<table><caption>\(caption)</caption><thead><tr>\(head)</tr></thead><tbody>\(body)</tbody></table>"
  }

  /// What is shown when it is asked for.
  static func details(_ summary: String, _ content: HTML) -> HTML {
    "<details><summary>\(summary)</summary>\(content)</details>"
  }
}

/// `--report`: writes what a command found as a page beside its answer.
struct ReportFile {
  let path: String

  /// Nil if no report was asked for. Throws `.outputExists` before any work is done.
  init?(_ invocation: Invocation) throws(AdapterError) {
    guard let path = invocation.value("report") else { return nil }
    guard !FileSystem.exists(path) else { throw AdapterError.file(.outputExists(path: path)) }
    self.path = path
  }

  /// Throws `.file`.
  func write(_ page: Page, _ console: Console) throws(AdapterError) {
    do throws(TensorFileError) {
      try OpenFile.create(path).write(page.html)
    } catch {
      throw AdapterError.file(error)
    }
    console.note("wrote \(path)")
  }
}
