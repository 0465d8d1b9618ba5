internal import PEFT
internal import TensorFiles

/// `inspect --report`: what an adapter is and does, the verdict first.
struct AdapterPage {
  let summary: AdapterSummary
  let statistics: ModuleStatistics?
  let verdict: AdapterVerdict
  /// The facts that `inspect` prints.
  let facts: [[String]]
  /// Folded modules or tensors, as `inspect` prints them, under their header.
  let modules: [[String]]
  /// Which tensors of the base it changes; nil without a base that it fits.
  var match: BaseMatch?
  var comparison: (other: String, values: AdapterComparison)?

  private var rows: [ModuleStatistics.Row] { statistics?.rows ?? [] }

  var page: Page {
    var page = Page(
      title: "Adapter \(FileSystem.lastComponent(summary.directory))", verdict: Page.Verdict(verdict), figures: figures)
    page.add("Facts", id: "facts", Page.facts(facts) + details)
    if let comparison {
      page.add(
        "Compared with \(FileSystem.lastComponent(comparison.other))", id: "comparison",
        ComparisonSection(comparison: comparison.values).html)
    }
    let grid = ModuleGrid(rows.map(\.path))
    if !rows.isEmpty { page.add("Size of the change", id: "change", change(grid)) }
    if let plots = SpectrumPlots(grid, rows.map { ($0.singularValues, $0.effectiveRank) }).html {
      page.add("Singular values", id: "spectra", spectra(grid, plots))
    }
    page.add("Bytes", id: "bytes", bytes)
    if let match { page.add("The base's tensors", id: "base", base(match)) }
    if !rows.isEmpty { page.add("Values", id: "values", values) }
    return page
  }

  private var figures: [Page.Figure] {
    var figures = [
      Page.Figure(value: grouped(summary.parameterCount), name: "parameters"),
      Page.Figure(value: bytesText(summary.bytes.values.reduce(0, +)), name: "on disk"),
      Page.Figure(value: grouped(rows.count), name: "modules"),
    ]
    if let median = Self.median(rows.compactMap(size)) {
      figures.append(
        Page.Figure(
          value: shortText(median), name: "median \(statistics?.hasBase == true ? "‖ΔW‖/‖W‖" : "‖ΔW‖/√elements")"))
    }
    if let median = Self.median(rows.filter { !$0.singularValues.isEmpty && $0.effectiveRank > 0 }.map(\.effectiveRank))
    {
      figures.append(Page.Figure(value: fixed(median, 1), name: "median effective rank"))
    }
    return figures
  }

  private static func median(_ values: [Double]) -> Double? {
    let sorted = values.filter(\.isFinite).sorted()
    return sorted.isEmpty ? nil : sorted[sorted.count / 2]
  }

  private var details: HTML {
    guard modules.count > 1 else { return "" }
    let shown = Array(modules.dropFirst().prefix(200))
    return Page.details(
      "Modules and tensors, layers folded",
      Page.table(modules[0], shown, caption: "\(shown.count) of \(modules.count - 1)"))
  }

  /// ‖ΔW‖/‖W‖ with a base, and ‖ΔW‖ per root of its elements without.
  private func size(_ row: ModuleStatistics.Row) -> Double? {
    if statistics?.hasBase == true { return row.relativeNorm }
    guard let norm = row.norm, let count = row.elementCount, count > 0 else { return nil }
    return norm / count.squareRoot()
  }

  private func change(_ grid: ModuleGrid) -> HTML {
    let hasBase = statistics?.hasBase == true
    let map = HeatMap(id: "change-map", grid: grid, scale: .size) { [rows] indices in
      cell(indices.map { rows[$0] }, hasBase: hasBase)
    }
    let meaning: HTML =
      hasBase
      ? "<p>‖ΔW‖ / ‖W‖: the change's norm as a share of the weight's.</p>"
      : """
      <p>‖ΔW‖ / √elements: the root mean square of the change's elements. With <code>--base</code> it is a share of the weight's \
      norm.</p>
      """
    return meaning + map.html
  }

  /// A module's cell; of several modules the sum of their squares.
  private func cell(_ rows: [ModuleStatistics.Row], hasBase: Bool) -> HeatMap.Cell {
    let several = rows.count > 1 ? "\(rows.count) modules, " : ""
    if rows.contains(where: { $0.health == .notFinite }) {
      return HeatMap.Cell(mark: .notFinite, text: "\(several)not finite")
    }
    if rows.allSatisfy({ $0.health == .untrained }) {
      return HeatMap.Cell(mark: .nothing, text: "\(several)changes nothing")
    }
    var (change, whole) = (0.0, 0.0)
    for row in rows {
      guard let norm = row.norm else { return HeatMap.Cell(mark: .unknown, text: "\(several)only the base tells") }
      change += norm * norm
      if hasBase {
        guard let relative = row.relativeNorm, relative > 0 || norm == 0 else {
          return HeatMap.Cell(mark: .unknown, text: "\(several)‖ΔW‖ \(shortText(norm)), the base has no such weight")
        }
        whole += relative > 0 ? (norm / relative) * (norm / relative) : 0
      } else {
        whole += row.elementCount ?? 0
      }
    }
    guard whole > 0 else { return HeatMap.Cell(mark: .unknown, text: "\(several)not known") }
    let value = (change / whole).squareRoot()
    return HeatMap.Cell(
      value: value,
      text:
        "\(several)\(hasBase ? "‖ΔW‖/‖W‖" : "‖ΔW‖/√elements") \(shortText(value)), ‖ΔW‖ \(shortText(change.squareRoot()))"
    )
  }

  private func spectra(_ grid: ModuleGrid, _ plots: HTML) -> HTML {
    let map = HeatMap(
      id: "rank-map", grid: grid, scale: .size, marks: [.unknown: "no singular values", .nothing: "changes nothing"],
      text: Self.rankText
    ) { [rows] indices in
      let ranks = indices.map { rows[$0] }.filter { !$0.singularValues.isEmpty }
      guard let count = ranks.map(\.singularValues.count).max() else {
        return HeatMap.Cell(mark: .unknown, text: "no singular values")
      }
      let mean = ranks.reduce(0) { $0 + $1.effectiveRank } / Double(ranks.count)
      guard mean > 0 else { return HeatMap.Cell(mark: .nothing, text: "changes nothing") }
      return HeatMap.Cell(value: mean, text: "effective rank \(fixed(mean, 1)) of \(count)")
    }
    let subject =
      summary.config.peftType == .lora ? "s·B·A" : "ΔW"
    return """
      <p>Of \(subject), as shares of the largest. The effective rank is the exponential of the entropy of the values' shares: the number \
      of directions that matter.</p>
      \(plots)<h3>Effective rank, by layer and module</h3>\(map.html)
      """
  }

  private static func rankText(_ rank: Double) -> String { fixed(rank, 1) }

  private var bytes: HTML {
    let classes = AdapterSummary.ByteClass.allCases.compactMap { kind in
      summary.bytes[kind].map { (kind.rawValue, $0) }
    }
    let dtypes = summary.bytesByDType.map { ($0.key.rawValue, $0.value) }.sorted { $0.1 > $1.1 }
    return Self.bars("class", classes) + Self.bars("dtype", dtypes)
  }

  private static func bars(_ name: String, _ rows: [(String, Int)]) -> HTML {
    let total = max(1, rows.reduce(0) { $0 + $1.1 })
    let body = rows.map { label, count in
      let percent = fixed(100 * Double(count) / Double(total), 1)
      return """
        <tr><th scope="row">\(label)</th><td>\(bytesText(count))</td><td>\(percent) %</td>\
        <td class="share" aria-hidden="true"><span class="bar" style="width:\(percent)%"></span></td></tr>
        """ as HTML
    }
    return "<table><caption>by \(name)</caption><tbody>\(body)</tbody></table>"
  }

  private func base(_ match: BaseMatch) -> HTML {
    let rows = match.rows.prefix(200).map {
      [$0.name, "\($0.count)", $0.shape.map(String.init).joined(separator: "×"), $0.dtype, $0.change]
    }
    let notes = match.notes.prefix(20).map { "<p>\($0, limit: 600)</p>" as HTML }
    return """
      <p>\(countText(match.matchedCount, "module")) of \(grouped(match.moduleCount)) matched.</p>\(notes)
      \(Page.table(["tensor of the base", "count", "shape", "dtype", "change"], Array(rows), caption: "Layers folded"))
      """
  }

  private var values: HTML {
    let shown = rows.prefix(500)
    let table = shown.map { row in
      [
        row.path, dashed(row.norm), dashed(size(row)),
        row.singularValues.isEmpty ? "–" : fixed(row.effectiveRank, 1),
        row.singularValues.first.map(shortText) ?? "–", row.health.rawValue,
      ]
    }
    let header = [
      "module", "‖ΔW‖", statistics?.hasBase == true ? "‖ΔW‖/‖W‖" : "‖ΔW‖/√elements", "eff. rank", "largest σ", "health",
    ]
    return Page.details(
      "Every module in numbers",
      Page.table(
        header, Array(table),
        caption: "\(grouped(shown.count)) of \(grouped(rows.count)) modules; --stats --json has all"))
  }
}

extension HTML {
  static func + (left: HTML, right: HTML) -> HTML { "\(left)\(right)" }
}

extension Page.Verdict {
  init(_ verdict: AdapterVerdict) {
    let tone: Tone =
      switch verdict.kind {
      case .healthy: .good
      case .partlyUntrained, .untrained: .warning
      case .broken: .bad
      case .undecided: .neutral
      }
    let word = verdict.kind.rawValue
    self.init(
      tone: tone, word: word.prefix(1).uppercased() + word.dropFirst(), reasons: verdict.reasons,
      remarks: verdict.remarks)
  }
}
