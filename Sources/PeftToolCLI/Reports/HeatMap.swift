internal import Glibc
internal import PEFT

/// One number a module as a field of colours, a row a kind and a cell a layer, which goes over lines where the page is narrow.
///
/// A cell tells its value when a pointer is over it, when it has the keyboard's focus (Tab goes from row to row, the arrows from cell to
/// cell) and when it is touched: each is a radio button, so no script is needed.
struct HeatMap {
  /// What a number means.
  enum Scale: Sendable {
    /// From zero up; by decades where the values' sizes differ much.
    case size
    /// From 0 to 1.
    case share
    /// From -1 to 1.
    case cosine
  }

  /// What is shown of one module, or of several that share a cell.
  struct Cell: Sendable {
    var value: Double?
    /// A sign in the place of a colour, with what it means.
    var mark: Mark?
    var text: String
  }

  enum Mark: String, Sendable, CaseIterable {
    case notFinite = "!"
    case nothing = "0"
    case unknown = "?"

    fileprivate var isAlarm: Bool { self == .notFinite }
  }

  /// Names it in links and tests.
  let id: String
  let grid: ModuleGrid
  let scale: Scale
  /// What the signs mean, for the legend.
  var marks: [Mark: String] = [.notFinite: "not finite", .nothing: "changes nothing", .unknown: "not known"]
  /// A value in words.
  var text: @Sendable (Double) -> String = shortText
  /// What the paths of these indices have.
  let cell: ([Int]) -> Cell

  var html: HTML {
    let cells = grid.kinds.map { kind in kind.cells.mapValues(cell) }
    let values = cells.flatMap(\.values).compactMap(\.value).filter(\.isFinite)
    let ramp = Ramp(scale, values)
    let rows = zip(grid.kinds, cells).enumerated().map { index, pair in
      row(pair.0, pair.1, ramp, name: "\(id)-\(index)")
    }
    let omitted: HTML =
      grid.omittedCount == 0 ? "" : "<p class=\"faint\">\(countText(grid.omittedCount, "module")) not shown here.</p>"
    let used = Set(cells.flatMap(\.values).compactMap(\.mark))
    return """
      <div class="map" id="\(id)">\(legend(ramp, used))
      \(axis)\(rows)\(omitted)</div>
      """
  }

  /// Every layer's place, with some of their numbers.
  private var axis: HTML {
    guard grid.layers.count > 1 else { return "" }
    let step = grid.layers.count <= 12 ? 1 : grid.layers.count <= 40 ? 5 : 10
    let ticks = grid.layers.enumerated().map { index, layer in
      "<span class=\"c\">\(index % step == 0 ? "\(layer)" : "")</span>" as HTML
    }
    return """
      <div class="kind axis" aria-hidden="true"><span class="range">layer</span>
      <div class="cells" style="--n:\(grid.layers.count)">\(ticks)</div></div>
      """
  }

  private func row(_ kind: ModuleGrid.Kind, _ cells: [Int?: Cell], _ ramp: Ramp, name: String) -> HTML {
    let places: [Int?] =
      (cells[nil] == nil ? [] : [nil]) + (cells.keys.contains { $0 != nil } ? grid.layers.map { $0 } : [])
    let shown = places.map { layer -> HTML in
      guard let cell = cells[layer] else { return "<span class=\"c none\"></span>" }
      let place = layer.map { "layer \($0), " } ?? ""
      let colour: HTML
      let sign: String
      if let mark = cell.mark {
        colour = mark.isAlarm ? "alarm" : "mark"
        sign = mark.rawValue
      } else {
        colour = cell.value.map { ramp.colour(of: $0) } ?? "mark"
        sign = ""
      }
      return """
        <label class="c \(colour)"><input type="radio" name="\(name)">\(sign)<span class="tip">\(place)\(kind.name): \(cell.text)</span></label>
        """
    }
    let values = cells.values.compactMap { $0.mark == nil ? $0.value : nil }.filter(\.isFinite)
    var range: HTML = ""
    if let least = values.min(), let most = values.max() {
      range = least == most ? "\(text(least))" : "\(text(least)) to \(text(most))"
    }
    return """
      <div class="kind"><h3>\(kind.name)</h3><span class="range">\(range)</span>
      <div class="cells" role="radiogroup" aria-label="\(kind.name)" style="--n:\(grid.layers.count)">\(shown)</div></div>

      """
  }

  private func legend(_ ramp: Ramp, _ used: Set<Mark>) -> HTML {
    let swatches = ramp.classes.map { "<i class=\"\($0)\"></i>" as HTML }
    let signs = Mark.allCases.filter(used.contains).map { mark in
      "<span><i class=\"c \(mark.isAlarm ? "alarm" : "mark")\">\(mark.rawValue)</i>\(marks[mark] ?? "")</span>" as HTML
    }
    let colours: HTML =
      ramp.isEmpty
      ? ""
      : """
      <span class="ramp"><b>\(text(ramp.least))</b>\(swatches)<b>\(text(ramp.greatest))</b></span>\
      <span>\(ramp.isByDecades ? "by decades" : "")</span>
      """
    return "<div class=\"legend\" role=\"note\" aria-label=\"Legend\">\(colours)\(signs)</div>"
  }
}

/// Which colour a value has.
private struct Ramp {
  let least: Double
  let greatest: Double
  let isByDecades: Bool
  let isEmpty: Bool
  private let hasTwoSides: Bool

  init(_ scale: HeatMap.Scale, _ values: [Double]) {
    isEmpty = values.isEmpty
    hasTwoSides = scale == .cosine
    switch scale {
    case .share: (least, greatest, isByDecades) = (0, 1, false)
    case .cosine: (least, greatest, isByDecades) = (-1, 1, false)
    case .size:
      let positive = values.filter { $0 > 0 }.sorted()
      let most = positive.last ?? 0
      // Many small values beside a few large ones would all look the same.
      isByDecades = !positive.isEmpty && positive[positive.count / 2] < most / 8
      least = isByDecades ? max(positive[0], most * 1e-6) : 0
      greatest = most
    }
  }

  var classes: [HTML] {
    hasTwoSides
      ? (0..<PageStyle.sides).map { "d\($0)" } : (0..<PageStyle.steps).map { "q\($0)" }
  }

  func colour(of value: Double) -> HTML {
    guard value.isFinite else { return "mark" }
    let share =
      isByDecades
      ? (value > 0 ? log(value / least) / log(greatest / least) : 0)
      : greatest > least ? (value - least) / (greatest - least) : 0
    let count = classes.count
    return classes[max(0, min(count - 1, Int(max(0, min(1, share)) * Double(count))))]
  }
}
