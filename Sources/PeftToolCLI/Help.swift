/// Help texts, made from the table.
enum Help {
  static var overview: String {
    var lines = ["Usage: peft-tool COMMAND [OPTION]... OPERAND...", ""]
    lines += ["Check, merge and make Hugging Face PEFT adapters without Python.", "", "Commands:"]
    lines += table(CommandTable.commands.map { ["  \($0.name)", $0.summary] })
    lines += ["", "Options of every command:"]
    lines += table(CommandTable.commonFlags.map { ["  \(spelling($0))", $0.summary] })
    lines += ["", "'peft-tool COMMAND --help' says more. Exit codes: 0 done, 1 the answer is no, 2 failure."]
    return lines.joined(separator: "\n") + "\n"
  }

  static func text(_ command: Command) -> String {
    var lines = [usage(command), "", wrapped(command.detail)]
    if !command.operands.isEmpty {
      lines += [""] + table(command.operands.map { ["  \($0.name)", $0.summary] })
    }
    lines += ["", "Options:"] + table(command.allFlags.map { ["  \(spelling($0))", summary($0)] })
    return lines.joined(separator: "\n") + "\n"
  }

  static func usage(_ command: Command) -> String {
    (["Usage: peft-tool \(command.name) [OPTION]..."] + command.operands.map(\.spelling)).joined(separator: " ")
  }

  static func spelling(_ flag: Flag) -> String {
    (flag.letter.map { "-\($0), " } ?? "    ") + "--\(flag.name)" + (flag.value.map { " \($0)" } ?? "")
  }

  private static func summary(_ flag: Flag) -> String {
    flag.summary + (flag.defaultText.map { " (default: \($0))" } ?? "") + (flag.repeats ? "; may be repeated" : "")
  }
}
