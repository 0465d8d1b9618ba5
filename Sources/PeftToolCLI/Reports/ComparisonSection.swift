internal import PEFT

/// What a page says of two adapters beside each other.
struct ComparisonSection {
  let comparison: AdapterComparison

  var html: HTML {
    let figures = Page.figures([
      Page.Figure(value: comparison.cosine.map { fixed($0, 4) } ?? "–", name: "cosine of both changes"),
      Page.Figure(value: dashed(comparison.relativeDifference), name: "‖ΔW_A − ΔW_B‖ / ‖ΔW_A‖"),
      Page.Figure(value: grouped(comparison.rows.count), name: "modules of both"),
      Page.Figure(value: grouped(comparison.onlyInFirst.count), name: "only in A"),
      Page.Figure(value: grouped(comparison.onlyInSecond.count), name: "only in B"),
    ])
    let grid = ModuleGrid(comparison.rows.map(\.path))
    let rows = comparison.rows
    let cosines = HeatMap(
      id: "cosine-map", grid: grid, scale: .cosine, marks: [.unknown: "not determined, or no change"],
      text: Self.shareText
    ) { indices in
      Self.cell(indices.map { rows[$0].cosine }, "cosine") { found in
        indices.count == 1
          ? ", relative difference \(dashed(rows[indices[0]].relativeDifference))" : ", mean of \(found) modules"
      }
    }
    let note: HTML =
      comparison.undeterminedCount == 0
      ? ""
      : """
      <p>\(countText(comparison.undeterminedCount, "module")) could not be compared: the adapters alone do not say what they \
      change (give <code>--base</code>), or the shapes differ. They are left out of the numbers for all.</p>
      """
    return """
      <p>A is the adapter of this page. A module that one adapter lacks counts as zero there.</p>\(figures)\(note)
      <h3>Cosine ⟨ΔW_A, ΔW_B⟩ / (‖ΔW_A‖·‖ΔW_B‖)</h3>\(cosines.html)
      <p>Overlap of two spaces of k and l directions with the orthonormal bases U and V: ‖UᵀV‖² / min(k, l), the mean of cos² over the \
      angles between them. 1 is one space within the other, and random spaces have max(k, l) / n.</p>
      <h3>Overlap of what they write to: the spaces of the columns</h3>\(overlap("write-map", grid, \.columns))
      <h3>Overlap of what they read: the spaces of the rows</h3>\(overlap("read-map", grid, \.rows))
      \(list(comparison.onlyInFirst, "only in A"))\(list(comparison.onlyInSecond, "only in B"))
      """
  }

  private func overlap(
    _ id: String, _ grid: ModuleGrid, _ side: KeyPath<AdapterComparison.Row, AdapterComparison.Overlap?>
  ) -> HTML {
    let overlaps = comparison.rows.map { $0[keyPath: side] }
    return HeatMap(
      id: id, grid: grid, scale: .share, marks: [.unknown: "not determined, or no change"], text: Self.shareText
    ) { indices in
      Self.cell(indices.map { overlaps[$0]?.value }, "overlap") { found in
        indices.count == 1
          ? ", by chance \(overlaps[indices[0]].map { fixed($0.chance, 3) } ?? "–")" : ", mean of \(found) modules"
      }
    }.html
  }

  private static func shareText(_ value: Double) -> String { fixed(value, 3) }

  private static func cell(_ values: [Double?], _ name: String, more: (_ found: Int) -> String) -> HeatMap.Cell {
    let known = values.compactMap { $0 }
    guard !known.isEmpty else { return HeatMap.Cell(mark: .unknown, text: "not determined, or no change") }
    let mean = known.reduce(0, +) / Double(known.count)
    return HeatMap.Cell(value: mean, text: "\(name) \(fixed(mean, 4))\(more(known.count))")
  }

  private func list(_ paths: [String], _ name: String) -> HTML {
    guard !paths.isEmpty else { return "" }
    let items = paths.prefix(100).map { "<li>\($0)</li>" as HTML }
    let more: HTML = paths.count > 100 ? "<li>and \(paths.count - 100) more</li>" : ""
    return Page.details("\(countText(paths.count, "module")) \(name)", "<ul>\(items)\(more)</ul>")
  }
}
