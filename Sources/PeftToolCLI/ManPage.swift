/// The man page, made from the table.
enum ManPage {
  static var text: String {
    var lines = [
      ".TH PEFT-TOOL 1 \"\" \"peft-tool \(CommandTable.version)\" \"User Commands\"",
      ".SH NAME", "peft-tool \\- check, merge and make Hugging Face PEFT adapters",
      ".SH SYNOPSIS", ".B peft-tool", ".I COMMAND", "[OPTION]... OPERAND...",
      ".SH COMMANDS",
    ]
    for command in CommandTable.commands {
      lines += [".SS \(escaped(command.name)) \(command.operands.map(\.spelling).joined(separator: " "))"]
      lines += [escaped(command.summary) + ".", ".PP"]
      lines += command.detail.split(separator: "\n\n").flatMap { [escaped(String($0)), ".PP"] }
      for operand in command.operands { lines += [".TP", ".I \(operand.name)", escaped(operand.summary)] }
      for flag in command.flags { lines += entry(flag) }
    }
    lines += [".SH OPTIONS OF EVERY COMMAND"]
    for flag in CommandTable.commonFlags { lines += entry(flag) }
    lines += [
      ".SH EXIT STATUS",
      "0 done, 1 the answer is no (\\fBdiff\\fR), 2 wrong usage or failure, "
        + "128 and a signal's number if one ended it.",
    ]
    return lines.joined(separator: "\n") + "\n"
  }

  private static func entry(_ flag: Flag) -> [String] {
    let value = flag.value.map { " \\fI\($0)\\fR" } ?? ""
    let name = (flag.letter.map { "\\fB\\-\($0)\\fR, " } ?? "") + "\\fB\\-\\-\(escaped(flag.name))\\fR" + value
    let fallback = flag.defaultText.map { " Default: \($0)." } ?? ""
    return [".TP", name, escaped("\(flag.summary).\(flag.detail.isEmpty ? "" : " \(flag.detail)")\(fallback)")]
  }

  /// roff reads a backslash, a hyphen and a dot or quote at a line's beginning in its own way.
  private static func escaped(_ text: String) -> String {
    var result = ""
    for character in text {
      switch character {
      case "\\": result += "\\e"
      case "-": result += "\\-"
      default: result.append(character)
      }
    }
    return result.hasPrefix(".") || result.hasPrefix("'") ? "\\&" + result : result
  }
}
