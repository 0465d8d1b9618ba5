internal import TensorFiles

/// A template as transformers' renderer of chat templates takes it.
///
/// Source: transformers `utils/chat_template_utils.py`, `_cached_compile_jinja_template`; jinja2 3.1.6.
struct JinjaTemplate {
  /// Bytes of a template.
  static let sourceLimit = 1 << 20

  private let nodes: [JinjaSyntax.Node]
  /// The variables and functions that the template speaks of.
  let names: Set<String>
  /// True if it marks what a model is to learn.
  let marksGeneration: Bool

  /// Throws for what is no template, and for one that is too long or too deep.
  init(_ source: String) throws(JinjaFailure) {
    guard source.utf8.count <= Self.sourceLimit else {
      throw JinjaFailure("it has \(source.utf8.count) bytes, over the limit of \(Self.sourceLimit)")
    }
    var parser = JinjaParser(try JinjaLexer.tokens(of: source))
    nodes = try parser.template()
    marksGeneration = parser.marksGeneration
    names = Set(parser.spokenOf.map(\.string))
  }

  /// The text that the template makes of variables.
  ///
  /// - Parameter seconds: the time that `strftime_now` tells, in seconds since 1970; nil for the present.
  func render(
    _ variables: [JSONValue.Member], at seconds: Int?, stepLimit: Int = JinjaBudget.stepLimit
  ) throws(JinjaFailure) -> String {
    try renderMarked(variables, at: seconds, stepLimit: stepLimit).text
  }

  /// The text, and where in it what is marked as generated lies, in Unicode scalars.
  ///
  /// Source: transformers `utils/chat_template_utils.py`, `AssistantTracker`.
  func renderMarked(
    _ variables: [JSONValue.Member], at seconds: Int?, stepLimit: Int = JinjaBudget.stepLimit
  ) throws(JinjaFailure) -> (text: String, generated: [Range<Int>]) {
    let machine = JinjaMachine(seconds: seconds, stepLimit: stepLimit)
    defer { machine.release() }
    for member in variables {
      machine.scope.set(JinjaText(member.key), try machine.budget.value(member.value))
    }
    try machine.render(nodes)
    return (String(machine.output), machine.generated)
  }
}
