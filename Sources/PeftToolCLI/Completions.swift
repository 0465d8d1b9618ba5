/// Completion scripts, made from the table: commands, options, and the values of those whose values are known.
enum Completions {
  /// A shell that a script can be made for.
  enum Shell: String, CaseIterable { case bash, zsh, fish }

  /// The script for a shell.
  static func script(_ shell: Shell) -> String {
    switch shell {
    case .bash: bash
    case .zsh: zsh
    case .fish: fish
    }
  }

  /// A command's name and `help`, which takes one.
  private static let help = (name: "help", summary: "show the help of a command")

  private static var names: [String] { CommandTable.commands.map(\.name) }

  /// A word within single quotes, by the POSIX shell's rules and zsh's.
  private static func quoted(_ text: String) -> String { "'" + text.replacing("'", with: "'\\''") + "'" }

  // MARK: bash

  private static var bash: String {
    let commands = CommandTable.commands.map { command in
      "    \(command.name)) flags=\(quoted(command.allFlags.map { "--\($0.name)" }.joined(separator: " "))) ;;"
    }
    var values: [String] = []
    for command in CommandTable.commands {
      for flag in command.allFlags where flag.value != nil {
        let spellings = ["--\(flag.name)"] + (flag.letter.map { ["-\($0)"] } ?? [])
        let pattern = spellings.map { "'\(command.name) \($0)'" }.joined(separator: " | ")
        values.append("    \(pattern)) \(bash(flag.takes)) ;;")
      }
    }
    let operands = CommandTable.commands.compactMap { command -> String? in
      guard let first = command.operands.first else { return "      \(command.name)) kind=nothing ;;" }
      return first.takes == .file ? nil : "      \(command.name)) \(bash(first.takes)) ;;"
    }
    return """
      _peft_tool() {
        local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
        local flags= words= kind=
        # bash parts '--for=vllm' at the sign.
        if [[ "$current" == "=" ]]; then
          current=
        elif [[ "$previous" == "=" ]]; then
          previous="${COMP_WORDS[COMP_CWORD-2]}"
        fi
        if [ "$COMP_CWORD" -eq 1 ]; then
          mapfile -t COMPREPLY < <(compgen -W '\((names + [help.name]).joined(separator: " ")) --help --version' -- "$current")
          return
        fi
        case "$command" in
      \(commands.joined(separator: "\n"))
        esac
        case "$command $previous" in
      \(values.joined(separator: "\n"))
        esac
        if [[ -z "$kind" && "$current" == -* ]]; then
          kind=words words=$flags
        elif [ -z "$kind" ]; then
          case "$command" in
            \(help.name)) kind=words words='\(names.joined(separator: " "))' ;;
      \(operands.joined(separator: "\n"))
            *) kind=file ;;
          esac
        fi
        case "$kind" in
          words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
          file) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
          directory) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
          *) COMPREPLY=() ;;
        esac
      }
      complete -o filenames -F _peft_tool peft-tool

      """
  }

  private static func bash(_ word: Word) -> String {
    switch word {
    case .choice(let words): "kind=words words=\(quoted(words.joined(separator: " ")))"
    case .file: "kind=file"
    case .directory: "kind=directory"
    case .text, .integer, .number, .size, .part: "kind=nothing"
    }
  }

  // MARK: zsh

  /// Text in a specification of `_arguments` or `_describe`, where a colon ends a part and a bracket a description.
  private static func zshPart(_ text: String) -> String {
    var result = ""
    for character in text {
      if "\\:[]".contains(character) { result.append("\\") }
      result.append(character)
    }
    return result
  }

  private static func zsh(_ word: Word) -> String {
    switch word {
    case .choice(let words): "(\(words.map(zshPart).joined(separator: " ")))"
    case .file: "_files"
    case .directory: "_files -/"
    case .text, .integer, .number, .size, .part: " "
    }
  }

  private static func zsh(_ flag: Flag) -> [String] {
    let rest = "[\(zshPart(flag.summary))]" + (flag.value.map { ":\(zshPart($0)):\(zsh(flag.takes))" } ?? "")
    let spellings = ["--\(flag.name)\(flag.value == nil ? "" : "=")"] + (flag.letter.map { ["-\($0)"] } ?? [])
    let names = (["--\(flag.name)"] + (flag.letter.map { ["-\($0)"] } ?? [])).joined(separator: " ")
    return spellings.map { quoted((flag.repeats ? "*" : "(\(names))") + $0 + rest) }
  }

  private static func zsh(_ operand: Operand) -> String {
    quoted(
      (operand.repeats ? "*:" : operand.isOptional ? "::" : ":") + "\(zshPart(operand.name)):\(zsh(operand.takes))")
  }

  private static var zsh: String {
    let described = CommandTable.commands.map { ($0.name, $0.summary) } + [(help.name, help.summary)]
    let commands = described.map { "    " + quoted("\($0.0):\(zshPart($0.1))") }
    let cases = CommandTable.commands.map { command in
      // What stands after operands of any number is completed as they are.
      let repeating = command.operands.firstIndex(where: \.repeats)
      let operands = command.operands.prefix(repeating.map { $0 + 1 } ?? command.operands.count)
      let words = command.allFlags.flatMap { zsh($0) } + operands.map { zsh($0) }
      return "    \(command.name)) _arguments -s \(words.joined(separator: " \\\n        ")) ;;"
    }
    return """
      #compdef peft-tool
      _peft-tool() {
        local -a commands
        commands=(
      \(commands.joined(separator: "\n"))
        )
        if (( CURRENT == 2 )); then
          _describe command commands
          return
        fi
        local command=$words[2]
        shift words
        (( CURRENT-- ))
        case $command in
          \(help.name)) _values command \(names.joined(separator: " ")) ;;
      \(cases.joined(separator: "\n"))
        esac
      }
      if [[ $funcstack[1] == _peft-tool ]]; then
        _peft-tool "$@"
      else
        compdef _peft-tool peft-tool
      fi

      """
  }

  // MARK: fish

  /// fish reads a backslash within single quotes.
  private static func fishQuoted(_ text: String) -> String {
    "'" + text.replacing("\\", with: "\\\\").replacing("'", with: "\\'") + "'"
  }

  private static func fish(_ word: Word) -> String {
    switch word {
    case .choice(let words): " -x -a \(fishQuoted(words.joined(separator: " ")))"
    case .file: " -r -F"
    case .directory: " -x -a '(__fish_complete_directories)'"
    case .text, .integer, .number, .size, .part: " -x"
    }
  }

  private static var fish: String {
    var lines: [String] = []
    for (name, summary) in CommandTable.commands.map({ ($0.name, $0.summary) }) + [(help.name, help.summary)] {
      lines.append("complete -c peft-tool -n __fish_use_subcommand -f -a \(name) -d \(fishQuoted(summary))")
    }
    let inHelp = fishQuoted("__fish_seen_subcommand_from \(help.name)")
    lines.append("complete -c peft-tool -n \(inHelp) -f -a \(fishQuoted(names.joined(separator: " ")))")
    for command in CommandTable.commands {
      // The command is the second word: later ones may be called as a command is.
      let condition = fishQuoted("contains -- \(command.name) (commandline -opc)[2]")
      if let first = command.operands.first, case .choice(let words) = first.takes {
        lines.append("complete -c peft-tool -n \(condition) -f -a \(fishQuoted(words.joined(separator: " ")))")
      }
      for flag in command.allFlags {
        lines.append(
          "complete -c peft-tool -n \(condition) -l \(flag.name)"
            + (flag.letter.map { " -s \($0)" } ?? "") + (flag.value == nil ? "" : fish(flag.takes))
            + " -d \(fishQuoted(flag.summary))")
      }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
