/// Completion scripts, made from the table.
enum Completions {
  /// The script for a shell; nil if the shell is not known.
  static func script(_ shell: String) -> String? {
    switch shell {
    case "bash": bash
    case "zsh": zsh
    case "fish": fish
    default: nil
    }
  }

  private static var names: String { CommandTable.commands.map(\.name).joined(separator: " ") }

  private static var bash: String {
    let cases = CommandTable.commands.map { command in
      "    \(command.name)) flags=\"\(command.allFlags.map { "--\($0.name)" }.joined(separator: " "))\" ;;"
    }
    return """
      _peft_tool() {
        local current="${COMP_WORDS[COMP_CWORD]}" flags=""
        if [ "$COMP_CWORD" -eq 1 ]; then
          COMPREPLY=($(compgen -W "\(names) --help --version" -- "$current"))
          return
        fi
        case "${COMP_WORDS[1]}" in
      \(cases.joined(separator: "\n"))
          completions) flags="bash zsh fish" ;;
        esac
        if [[ "$current" == -* || "${COMP_WORDS[1]}" == completions ]]; then
          COMPREPLY=($(compgen -W "$flags" -- "$current"))
        else
          COMPREPLY=($(compgen -f -- "$current"))
        fi
      }
      complete -o filenames -F _peft_tool peft-tool

      """
  }

  /// Text inside single quotes and brackets.
  private static func zshText(_ text: String) -> String {
    text.replacing("'", with: "'\\''").replacing(":", with: "\\:").replacing("[", with: "\\[").replacing(
      "]", with: "\\]")
  }

  private static var zsh: String {
    let commands = CommandTable.commands.map { "    '\($0.name):\($0.summary)'" }
    let cases = CommandTable.commands.map { command in
      let flags = command.allFlags.map { flag in
        "'--\(flag.name)[\(zshText(flag.summary))]\(flag.value.map { ":\($0):_files" } ?? "")'"
      }
      return "    \(command.name)) _arguments \(flags.joined(separator: " ")) '*:file:_files' ;;"
    }
    return """
      #compdef peft-tool
      local -a commands
      commands=(
      \(commands.joined(separator: "\n"))
      )
      if (( CURRENT == 2 )); then
        _describe command commands
      else
        local command=$words[2]
        shift words
        (( CURRENT-- ))
        case $command in
      \(cases.joined(separator: "\n"))
        esac
      fi

      """
  }

  private static var fish: String {
    var lines: [String] = []
    for command in CommandTable.commands {
      lines.append(
        "complete -c peft-tool -n __fish_use_subcommand -a \(command.name) -d '\(command.summary)'")
      for flag in command.allFlags {
        lines.append(
          "complete -c peft-tool -n '__fish_seen_subcommand_from \(command.name)' -l \(flag.name)"
            + (flag.letter.map { " -s \($0)" } ?? "") + (flag.value == nil ? "" : " -r")
            + " -d '\(flag.summary.replacing("'", with: "\\'"))'")
      }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
