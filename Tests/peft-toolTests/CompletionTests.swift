import Foundation
import PEFT
import TensorFiles
import TestSupport
import Testing

/// A shell that is installed here.
private struct Shell: CustomTestStringConvertible {
  let name: String
  let path: String

  static let all: [Shell] = ["bash", "zsh", "fish"].compactMap { name in
    let path = ["/bin", "/usr/bin", "/usr/local/bin"].map { "\($0)/\(name)" }
    return path.first { FileManager.default.isExecutableFile(atPath: $0) }.map { Shell(name: name, path: $0) }
  }

  var testDescription: String { name }

  /// Runs the shell; returns its code and what it wrote to both outputs.
  func run(_ words: [String]) throws -> (code: Int32, text: String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/timeout")
    process.arguments = ["20", path] + words
    process.currentDirectoryURL = URL(fileURLWithPath: Fixtures.root)
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
  }

  /// What a line becomes when its last word is completed and only one word is possible.
  func completed(_ line: String, script: String) throws -> String {
    switch name {
    case "bash":
      let program = """
        source "$1"; read -ra COMP_WORDS <<<"$2"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _peft_tool
        COMP_WORDS[COMP_CWORD]="${COMPREPLY[*]}"; printf %s "${COMP_WORDS[*]}"
        """
      return try run(["--norc", "-c", program, "bash", script, line]).text
    case "fish":
      let program = "source $argv[1]; complete -C $argv[2] | string split -f 1 \\t | string join ' '"
      let words = try run(["--no-config", "-c", program, script, line]).text.split(whereSeparator: \.isNewline)
      return (line.split(separator: " ").dropLast() + [words.joined(separator: " ")[...]]).joined(separator: " ")
    default:
      // zsh completes in an editor only: a terminal of its own, and the command as a function that shows its words.
      let program = """
        zmodload zsh/zpty
        zpty line zsh -f -i
        shown() { local out all=; while zpty -r line out; do all+=$out; [[ $all == *"$1"* ]] && return; done; return 1 }
        zpty -w line "PS1=; autoload -Uz compinit; compinit -u -D; source $1; peft-tool() { print -r \\"{\\$*}\\" }; print rea''dy"
        shown ready
        zpty -w -n line "$2"$'\\t\\n'
        shown "}" && print -r -- "${${all##*\\{}%%\\}*}"
        zpty -d line
        """
      let shown = program.replacing("local out all=;", with: "local out; all=;")
      return try "peft-tool " + run(["-f", "-c", shown, "zsh", script, line]).text.trimmed
    }
  }
}

extension String {
  /// Without white space at its ends.
  fileprivate var trimmed: String { trimmingCharacters(in: .whitespacesAndNewlines) }
}

@Suite struct CompletionTests {
  private func script(_ shell: Shell, in scratch: ScratchDirectory) throws -> String {
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["completions", shell.name]
    let output = Pipe()
    process.standardOutput = output
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let path = scratch("peft-tool.\(shell.name)")
    try overwrite(path, Array(data))
    return path
  }

  @Test(arguments: Shell.all) fileprivate func aCompletionScriptIsReadByItsShellWithoutAWord(shell: Shell) throws {
    let scratch = try ScratchDirectory()
    let answer = try shell.run(["-n", try script(shell, in: scratch)])
    #expect(answer.code == 0 && answer.text.isEmpty, "\(answer.text)")
  }

  @Test(
    arguments: Shell.all,
    [
      ("peft-tool insp", "peft-tool inspect"),
      ("peft-tool cha", "peft-tool chat"),
      ("peft-tool chat --ignore", "peft-tool chat --ignore-eos"),
      ("peft-tool inspect --for vl", "peft-tool inspect --for vllm"),
      ("peft-tool help vali", "peft-tool help validate"),
      ("peft-tool completions fi", "peft-tool completions fish"),
      ("peft-tool merge --max-sh", "peft-tool merge --max-shard-size"),
      ("peft-tool validate Fixtures/safet", "peft-tool validate Fixtures/safetensors"),
      ("peft-tool merge --progress js", "peft-tool merge --progress json"),
      ("peft-tool to-l", "peft-tool to-lora"),
      ("peft-tool convert --to koh", "peft-tool convert --to kohya"),
      ("peft-tool combine --method dare_t", "peft-tool combine --method dare_ties"),
      ("peft-tool train --lr-scheduler-type cosine_", "peft-tool train --lr-scheduler-type cosine_with_restarts"),
      (
        "peft-tool train --resume-from-checkpoint Fixtures/safet",
        "peft-tool train --resume-from-checkpoint Fixtures/safetensors"
      ),
    ])
  fileprivate func aLineIsCompletedInEachShell(shell: Shell, line: (typed: String, whole: String)) throws {
    let scratch = try ScratchDirectory()
    let found = try shell.completed(line.typed, script: try script(shell, in: scratch))
    // Shells end a directory with a slash, and an option that takes a value with a sign.
    #expect(found.trimmed.trimmingCharacters(in: ["/", "="]) == line.whole, "\(found)")
  }
}
