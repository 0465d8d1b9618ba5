/// The parts of a template.
enum JinjaSyntax {
  indirect enum Expression {
    case constant(JinjaValue)
    case name(JinjaText)
    case list([Expression])
    case tuple([Expression])
    case dictionary([(key: Expression, value: Expression)])
    /// What follows a value, in the order in which it is applied.
    case applied(Expression, [Application])
    case minus(Expression)
    case plus(Expression)
    case not(Expression)
    /// `a - b + c`, from left to right.
    case arithmetic(Expression, [(sign: String, operand: Expression)])
    /// `a ~ b`.
    case joined([Expression])
    /// `a < b < c`: true if each comparison is.
    case compared(Expression, [(sign: String, operand: Expression)])
    case all([Expression])
    case any([Expression])
    case conditional(Expression, condition: Expression, otherwise: Expression?)
  }

  enum Application {
    case attribute(JinjaText)
    case item(Expression)
    case slice(Expression?, Expression?, Expression?)
    case call(Arguments)
    case filter(String, Arguments)
    case test(String, Arguments, isNegated: Bool)
  }

  struct Arguments {
    var plain: [Expression] = []
    var named: [(name: JinjaText, value: Expression)] = []
    /// `*list`
    var list: Expression?
    /// `**dictionary`
    var dictionary: Expression?
  }

  /// What a value is assigned to.
  indirect enum Target {
    case name(JinjaText)
    case attribute(of: JinjaText, JinjaText)
    case parts([Target])
  }

  indirect enum Node {
    case text(JinjaText)
    case output(Expression)
    case loop(Loop)
    case branches([(condition: Expression, body: [Node])], otherwise: [Node])
    case set(Target, Expression)
    case setBlock(Target, filters: [Application], body: [Node])
    case macro(Macro)
    /// `{% call %}`: the macro is what `caller` means in what is called.
    case call(Expression, Arguments, Macro)
    case filterBlock([Application], body: [Node])
    case with([(target: Target, value: Expression)], body: [Node])
    /// A body whose assignments end with it.
    case scope([Node])
    /// transformers' mark of what a model is to learn.
    case generation([Node])
    case block(JinjaText, isScoped: Bool, body: [Node])
    case autoescape(Expression, body: [Node])
    case leave(isBreak: Bool)
    /// A statement that needs another template.
    case otherTemplate(String)
  }

  final class Loop {
    let target: Target
    let over: Expression
    let condition: Expression?
    let isRecursive: Bool
    let body: [Node]
    let otherwise: [Node]

    init(
      target: Target, over: Expression, condition: Expression?, isRecursive: Bool, body: [Node], otherwise: [Node]
    ) {
      (self.target, self.over, self.condition) = (target, over, condition)
      (self.isRecursive, self.body, self.otherwise) = (isRecursive, body, otherwise)
    }
  }

  final class Macro {
    let name: JinjaText
    let parameters: [(name: JinjaText, value: Expression?)]
    let body: [Node]
    /// Which of `caller`, `varargs` and `kwargs` the body speaks of.
    let special: Set<String>

    init(
      name: JinjaText, parameters: [(name: JinjaText, value: Expression?)], body: [Node], special: Set<String>
    ) {
      (self.name, self.parameters, self.body, self.special) = (name, parameters, body, special)
    }
  }
}
