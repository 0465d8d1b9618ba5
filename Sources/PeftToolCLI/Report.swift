internal import Glibc
internal import PEFT
internal import TensorFiles

/// `inspect --report`: one page that needs nothing else, with a heat map, singular-value curves, bytes and health.
struct Report {
  let summary: AdapterSummary
  let statistics: ModuleStatistics

  private static let style = """
    body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c1c1c}
    h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
    td,th{padding:.2rem .6rem;text-align:left}th{font-weight:600}.map td{text-align:right;font-size:11px;min-width:3.6em}
    .map th{font-size:11px;font-weight:400}.bar{background:#4062a8;height:.9rem;display:inline-block}
    .bad{color:#a01818;font-weight:600}svg{background:#fafafa;border:1px solid #ddd}
    """

  var html: String {
    """
    <!DOCTYPE html>
    <html lang="en"><head><meta charset="utf-8"><title>\(escaped(title))</title><style>\(Self.style)</style></head><body>
    <h1>\(escaped(title))</h1>
    \(facts)
    <h2>Size of the change, by layer and module</h2>
    \(heatMap)
    <h2>Singular values of the change</h2>
    \(curves)
    <h2>Bytes by class</h2>
    \(bytes)
    <h2>Health</h2>
    \(health)
    </body></html>

    """
  }

  private var title: String { "Adapter \(FileSystem.lastComponent(summary.directory))" }

  private func escaped(_ text: String) -> String {
    printable(text).replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
      .replacing("\"", with: "&quot;")
  }

  private var facts: String {
    let config = summary.config
    let rows = [
      ("method", config.peftType.rawValue), ("base model", config.baseModelNameOrPath ?? "not named"),
      ("task", config.taskType ?? "not stated"), ("PEFT version", config.peftVersion ?? "not stated"),
      ("parameters", grouped(summary.parameterCount)), ("tensors", grouped(summary.tensorCount)),
    ]
    return "<table>"
      + rows.map { "<tr><th>\($0.0)</th><td>\(escaped($0.1))</td></tr>" }.joined() + "</table>"
  }

  /// The layer and the rest of a module's path.
  private func place(_ path: String) -> (layer: Int?, module: String) {
    let parts = path.split(separator: ".").map(String.init)
    guard let index = parts.firstIndex(where: { Int($0) != nil }) else { return (nil, path) }
    return (Int(parts[index]), parts[(index + 1)...].joined(separator: "."))
  }

  private var heatMap: String {
    var cells: [String: [Int: ModuleStatistics.Row]] = [:]
    var order: [String] = []
    for row in statistics.rows {
      let (layer, module) = place(row.path)
      if cells[module] == nil { order.append(module) }
      cells[module, default: [:]][layer ?? -1] = row
    }
    let layers = Set(cells.values.flatMap(\.keys)).sorted()
    let greatest = statistics.rows.compactMap(\.norm).filter(\.isFinite).max() ?? 0
    var html = "<table class=\"map\" id=\"heat-map\"><tr><th>layer</th>"
    for module in order { html += "<th>\(escaped(module))</th>" }
    html += "</tr>"
    for layer in layers {
      html += "<tr><th>\(layer < 0 ? "—" : "\(layer)")</th>"
      for module in order {
        guard let row = cells[module]?[layer] else {
          html += "<td></td>"
          continue
        }
        let share = greatest > 0 ? (row.norm.map { $0.isFinite ? $0 / greatest : 0 } ?? 0) : 0
        let light = 97 - Int(share * 52)
        html += "<td style=\"background:hsl(220 60% \(light)%)\(light < 62 ? ";color:#fff" : "")\" "
        html += "title=\"\(escaped(row.path))\">\(row.health == .notFinite ? "not finite" : normText(row.norm))</td>"
      }
      html += "</tr>"
    }
    return html + "</table>"
  }

  private var curves: String {
    let shown = statistics.rows.filter { !$0.singularValues.isEmpty && ($0.singularValues.first ?? 0) > 0 }
    guard !shown.isEmpty else { return "<p>This method has no singular values to show, or the change is zero.</p>" }
    let (width, height) = (640.0, 260.0)
    let longest = Double(max(2, shown.map(\.singularValues.count).max() ?? 2))
    var svg = "<svg id=\"curves\" width=\"640\" height=\"260\" viewBox=\"0 0 640 260\" role=\"img\">"
    for row in shown {
      let first = row.singularValues[0]
      let points = row.singularValues.enumerated().map { index, value in
        // Shares of the largest, over four decades.
        let decades = value > 0 ? min(4, -log10(value / first)) : 4
        let x = 10 + Double(index) / (longest - 1) * (width - 20)
        return "\(fixed(x, 1)),\(fixed(10 + decades / 4 * (height - 20), 1))"
      }
      svg +=
        "<polyline fill=\"none\" stroke=\"#4062a8\" stroke-opacity=\".35\" points=\"\(points.joined(separator: " "))\">"
      svg += "<title>\(escaped(row.path)), effective rank \(fixed(row.effectiveRank, 1))</title></polyline>"
    }
    return svg
      + "</svg><p>Each line is a module: its singular values as shares of the largest, from 1 above to 0.0001 below.</p>"
  }

  private var bytes: String {
    let total = max(1, summary.bytes.values.reduce(0, +))
    let rows = AdapterSummary.ByteClass.allCases.map { kind in
      let count = summary.bytes[kind] ?? 0
      return "<tr><th>\(kind.rawValue)</th><td>\(bytesText(count))</td>"
        + "<td><span class=\"bar\" style=\"width:\(count * 300 / total)px\"></span></td></tr>"
    }
    return "<table>\(rows.joined())</table>"
  }

  private var health: String {
    let bad = statistics.rows.filter { $0.health == .untrained || $0.health == .notFinite }
    guard !bad.isEmpty else {
      let unknown = statistics.rows.filter { $0.health == .unknown }.count
      let judged = "All \(statistics.rows.count) modules are finite"
      return "<p id=\"health\">"
        + (unknown == 0
          ? "\(judged) and change something." : "\(judged); what \(unknown) of them change only the base can tell.")
        + "</p>"
    }
    return "<ul id=\"health\">"
      + bad.map { "<li class=\"bad\">\(escaped($0.path)): \($0.health.rawValue)</li>" }.joined() + "</ul>"
  }
}
