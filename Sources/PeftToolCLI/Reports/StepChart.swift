internal import PEFT

/// A curve over the steps of a run, and points beside it.
struct StepChart: Sendable {
  /// Values and the steps that they belong to.
  typealias Points = [(step: Int, value: Double)]

  /// Names the plot in links and tests.
  let id: String
  let name: String
  /// Steps of the whole run.
  let steps: Int
  let points: Points
  var marks: Points = []
  /// What the points are.
  var note = ""

  private static let greatestPoints = 1000
  private static let (width, height, left, right, top, bottom) = (640.0, 220.0, 60.0, 10.0, 10.0, 28.0)

  /// Says that there is nothing yet where no value is finite.
  var html: HTML {
    let line = thinned(points)
    let marks = thinned(marks)
    let values = (line + marks).map(\.value)
    guard let least = values.min(), let greatest = values.max() else { return "<p class=\"faint\">Nothing yet.</p>\n" }
    let span = greatest > least ? greatest - least : max(abs(greatest), 1e-12)
    func x(_ step: Int) -> String {
      fixed(Self.left + Double(step) / Double(max(steps, 1)) * (Self.width - Self.left - Self.right), 1)
    }
    func y(_ value: Double) -> String {
      fixed(Self.top + (greatest - value) / span * (Self.height - Self.top - Self.bottom), 1)
    }
    let path = line.map { "\(x($0.step)),\(y($0.value))" }.joined(separator: " ")
    let dots = marks.map { mark in
      """
      <circle class="dot" cx="\(x(mark.step))" cy="\(y(mark.value))" r="3.5"><title>step \(mark.step): \
      \(shown(mark.value))</title></circle>
      """ as HTML
    }
    let last = points.last.map { "Last: \(shown($0.value)). " } ?? ""
    let floor = fixed(Self.height - Self.bottom, 0)
    return """
      <figure><svg id="\(id)" viewBox="0 0 640 220" role="img" aria-label="\(name) by step. \(last)\(note)">
      <path class="grid" fill="none" d="M60 10V\(floor)H630"/>
      <text x="54" y="18" text-anchor="end">\(shown(greatest))</text><text x="54" y="\(floor)" text-anchor="end">\(shown(least))</text>
      <text x="60" y="210">0</text><text x="630" y="210" text-anchor="end">step \(steps)</text>
      <polyline class="curve s7" points="\(path, limit: .max)"/>\(dots)</svg><figcaption>\(last)\(note)</figcaption></figure>

      """
  }

  /// At most a thousand points: stretches of more are their means. What is not finite is left out.
  private func thinned(_ points: Points) -> Points {
    let points = points.filter { $0.value.isFinite }
    let size = (points.count + Self.greatestPoints - 1) / Self.greatestPoints
    guard size > 1 else { return points }
    return stride(from: 0, to: points.count, by: size).map { start in
      let part = points[start..<min(start + size, points.count)]
      return (part[part.endIndex - 1].step, part.reduce(0) { $0 + $1.value } / Double(part.count))
    }
  }

  private func shown(_ value: Double) -> String { abs(value) < 0.01 ? "\(Float(value))" : numberText(value) }
}
