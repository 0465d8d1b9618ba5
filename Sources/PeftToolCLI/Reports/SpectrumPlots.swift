internal import Glibc
internal import PEFT

/// Singular values by kind of module: a plot with axes each, a curve a module.
struct SpectrumPlots: Sendable {
  let grid: ModuleGrid
  /// Singular values and effective rank by index, falling; empty where there are none.
  let spectra: [(values: [Double], effectiveRank: Double)]

  private static let greatestPlots = 24
  private static let greatestCurves = 48
  private static let greatestPoints = 48
  /// Colours of the ramp, from the first layer to the last; the palest would not show.
  private static let colours = [3, 4, 6, 7, 9]
  /// Decades below the largest value that are shown at most.
  private static let greatestDecades = 4

  private let width = 320.0
  private let height = 190.0
  /// Room around the curves, for the axes' numbers.
  private let left = 50.0
  private let right = 10.0
  private let top = 8.0
  private let bottom = 36.0

  init(_ grid: ModuleGrid, _ spectra: [(values: [Double], effectiveRank: Double)]) {
    self.grid = grid
    self.spectra = spectra
  }

  /// Empty if no module has singular values.
  var html: HTML? {
    let kinds = grid.kinds.map { kind in (kind.name, curves(kind)) }.filter { !$0.1.isEmpty }
    guard !kinds.isEmpty else { return nil }
    let shown = kinds.prefix(Self.greatestPlots).map { plot($0.0, $0.1) }
    let more: HTML =
      kinds.count > shown.count
      ? "<p class=\"faint\">\(kinds.count - shown.count) more kinds are not shown here.</p>" : ""
    let swatches = Self.colours.map { "<i class=\"q\($0)\"></i>" as HTML }
    return """
      <div class="legend"><span class="ramp"><b>first layer</b>\(swatches)<b>last layer</b></span></div>
      <div class="plots">\(shown)</div>\(more)
      """
  }

  private struct Curve {
    let layer: Int?
    let values: [Double]
    let effectiveRank: Double
  }

  private func curves(_ kind: ModuleGrid.Kind) -> [Curve] {
    let ordered = kind.cells.sorted { ($0.key ?? -1) < ($1.key ?? -1) }
    return ordered.flatMap { layer, indices in
      indices.map { Curve(layer: layer, values: spectra[$0].values, effectiveRank: spectra[$0].effectiveRank) }
    }.filter { ($0.values.first ?? 0) > 0 }
  }

  /// Some of many, evenly, first and last among them.
  private static func some(_ count: Int, _ limit: Int) -> [Int] {
    count <= limit ? Array(0..<count) : (0..<limit).map { $0 * (count - 1) / (limit - 1) }
  }

  private func plot(_ name: String, _ curves: [Curve]) -> HTML {
    let longest = curves.map(\.values.count).max() ?? 1
    let decades = Self.decades(curves)
    let indices = Self.some(curves.count, Self.greatestCurves)
    let lines = indices.map { index in
      line(curves[index], position: Double(index) / Double(max(1, curves.count - 1)), longest, decades)
    }
    let ranks = curves.map(\.effectiveRank)
    let (least, most) = (fixed(ranks.min() ?? 0, 1), fixed(ranks.max() ?? 0, 1))
    let rank = "effective rank \(least == most ? least : "\(least) to \(most)") of \(longest)"
    let drawn = indices.count < curves.count ? ", \(indices.count) of \(curves.count) modules drawn" : ""
    return """
      <figure><figcaption><strong>\(name)</strong><br><span>\(rank)\(drawn)</span></figcaption>
      <svg viewBox="0 0 320 190" role="img" aria-label="Singular values of \(name): \(countText(curves.count, "module")), \(rank)">
      \(axes(longest, decades))\(lines)</svg></figure>

      """
  }

  private func x(_ index: Int, _ longest: Int) -> String {
    let share = longest > 1 ? Double(index) / Double(longest - 1) : 0.5
    return fixed(left + share * (width - left - right), 1)
  }

  /// How many decades hold the values.
  private static func decades(_ curves: [Curve]) -> Int {
    let falls = curves.flatMap { curve in curve.values.map { -log10($0 / curve.values[0]) } }
    return Int(max(1, min(Double(greatestDecades), (falls.max() ?? 0).rounded(.up))))
  }

  private func y(_ share: Double, _ decades: Int) -> String {
    let all = Double(decades)
    let fall = share > 0 ? min(all, max(0, -log10(share))) : all
    return fixed(top + fall / all * (height - top - bottom), 1)
  }

  private func axes(_ longest: Int, _ decades: Int) -> HTML {
    let ticks = (0...decades).map { decade in
      let value = pow(10, -Double(decade))
      let label = decade == 0 ? "1" : fixed(value, decade)
      return
        """
        <line class="grid" x1="\(fixed(left, 1))" x2="\(fixed(width - right, 1))" y1="\(y(value, decades))" y2="\(y(value, decades))"/>\
        <text x="\(fixed(left - 5, 1))" y="\(y(value, decades))" text-anchor="end" dominant-baseline="middle">\(label)</text>
        """ as HTML
    }
    let places = longest > 2 ? [0, (longest - 1) / 2, longest - 1] : Array(0..<longest)
    let numbers = places.map { index in
      "<text x=\"\(x(index, longest))\" y=\"\(fixed(height - bottom + 14, 1))\" text-anchor=\"middle\">\(index + 1)</text>"
        as HTML
    }
    return """
      \(ticks)\(numbers)<text x="\(fixed((left + width - right) / 2, 1))" y="\(fixed(height - 4, 1))" text-anchor="middle">\
      number of the singular value</text>\
      <text x="12" y="\(fixed((top + height - bottom) / 2, 1))" text-anchor="middle" \
      transform="rotate(-90 12 \(fixed((top + height - bottom) / 2, 1)))">σ / σ₁</text>
      """
  }

  private func line(_ curve: Curve, position: Double, _ longest: Int, _ decades: Int) -> HTML {
    let colour = Self.colours[min(Self.colours.count - 1, Int(position * Double(Self.colours.count)))]
    let title =
      "\(curve.layer.map { "layer \($0), " } ?? "")largest \(shortText(curve.values[0])), effective rank \(fixed(curve.effectiveRank, 1))"
    let points = Self.some(curve.values.count, Self.greatestPoints).map { index in
      (x(index, longest), y(curve.values[index] / curve.values[0], decades))
    }
    guard points.count > 1 else {
      return
        "<circle class=\"s\(colour)\" cx=\"\(points[0].0)\" cy=\"\(points[0].1)\" r=\"3\"><title>\(title)</title></circle>"
    }
    let path = points.map { "\($0.0),\($0.1)" }.joined(separator: " ")
    return "<polyline class=\"curve s\(colour)\" points=\"\(path, limit: .max)\"><title>\(title)</title></polyline>\n"
  }
}
