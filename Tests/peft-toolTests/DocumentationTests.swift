import Foundation
import TensorFiles
import TestSupport
import Testing

/// A page of the documentation and the commands in it.
private struct Page: CustomTestStringConvertible {
  /// A fenced block: its first word, what follows that, and its lines.
  struct Block {
    let line: Int
    let language: String
    let note: String
    var lines: [String] = []
  }

  let name: String
  private(set) var blocks: [Block] = []
  /// Lines that look like commands and stand in no block of commands.
  private(set) var strays: [String] = []
  /// Code within sentences that begins with the tool's name.
  private(set) var mentions: [String] = []

  static let all: [Page] = {
    let docs = (try? FileSystem.names(in: "\(Fixtures.root)/docs")) ?? []
    let names =
      ["README.md", "CONTRIBUTING.md", "SECURITY.md"] + docs.filter { $0.hasSuffix(".md") }.map { "docs/\($0)" }
    return names.compactMap { name in
      (try? FileSystem.text("\(Fixtures.root)/\(name)")).map { Page(name: name, text: $0) }
    }
  }()

  private init(name: String, text: String) {
    self.name = name
    var block: Block?
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init).enumerated() {
      if line.hasPrefix("```") {
        if let whole = block {
          blocks.append(whole)
          block = nil
        } else {
          let words = line.dropFirst(3).split(separator: " ", maxSplits: 1).map(String.init)
          block = Block(line: index + 1, language: words.first ?? "", note: words.count > 1 ? words[1] : "")
        }
      } else if block != nil {
        block?.lines.append(line)
      } else if line.contains(/^(?: {4}|\t)\s*(?:\$ )?(?:peft-tool|make|python3?|pip|podman|docker|cargo)\b/) {
        strays.append("\(index + 1): \(line)")
      }
      if block == nil { mentions += line.matches(of: /`(peft-tool [^`]+)`/).map { String($0.1) } }
    }
    for block in blocks where !["console", "sh"].contains(block.language) {
      strays += block.lines.filter { $0.contains(/^\s*(?:\$ )?peft-tool\b/) }.map { "\(block.line): \($0)" }
    }
  }

  var testDescription: String { name }
}

/// A command of a `console` block and what is shown of its answer.
private struct Shown {
  var command: String
  var answer: [String] = []

  static func all(in block: Page.Block) -> [Shown] {
    var found: [Shown] = []
    var continues = false
    for line in block.lines {
      if continues || line.hasPrefix("$ ") {
        let words = continues ? line : String(line.dropFirst(2))
        if continues { found[found.count - 1].command += "\n\(words)" } else { found.append(Shown(command: words)) }
        continues = line.hasSuffix("\\")
      } else if !found.isEmpty {
        found[found.count - 1].answer.append(line)
      }
    }
    return found
  }
}

/// What the pages say can be typed.
@Suite struct DocumentationTests {
  /// What stands in a page's directory under the names that it uses.
  private func furnish(_ scratch: ScratchDirectory) throws {
    let (merge, running) = (Fixtures.path("merge/llama-bf16-all-linear"), Fixtures.path("running"))
    for (name, source) in [
      ("base", "\(merge)/base"), ("adapter", "\(merge)/adapter"), ("merged-by-peft", "\(merge)/merged"),
      ("other-base", Fixtures.path("merge/bert-token-classifier/base")), ("mine", "\(running)/chatting/first"),
      ("yours", "\(running)/chatting/second"), ("ADAPTER", "\(running)/chatting/first"), ("MODEL", "\(running)/chat"),
      ("OTHER", "\(running)/chatting/second"), ("one", "\(running)/chatting/first"),
      ("two", "\(running)/chatting/second"), ("three", "\(running)/chatting/first"),
    ] {
      try copyDirectory(source, to: scratch(name))
    }
    try FileSystem.copy(scratch("ADAPTER/adapter_model.safetensors"), to: scratch("FILE"))
    try overwrite(
      scratch("RECIPE"),
      "merge_method: linear\nmodels: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 2}}]\n")
    // A template that knows what the pages speak of.
    let settings = try JSONValue(contentsOf: "\(running)/chat/tokenizer_config.json")
    let template = try #require(settings["chat_template"]?.stringValue)
    try overwrite(scratch("MODEL/chat_template.jinja"), template + "{% if tools and enable_thinking %}{% endif %}")
    try FileSystem.makeDirectory(scratch("smol"))
    for name in ["BASE", "A", "B", "SmolLM2-135M-Instruct", "smol/base"] {
      try copyDirectory(scratch("MODEL"), to: scratch(name))
    }
    try copyDirectory(scratch("mine"), to: scratch("smol/adapter"))
    for name in ["config.json", "adapter_config.json"] {
      try FileSystem.copy(scratch("mine/adapter_config.json"), to: scratch(name))
    }
    let records = (0..<80).map { #"{"text": "The harbour master wrote line \#($0) of the log."}"# }.joined(
      separator: "\n")
    for name in ["records.jsonl", "data.jsonl", "held.jsonl"] { try overwrite(scratch(name), records) }
    #expect(try shell("peft-tool merge -q BASE ADAPTER MERGED", in: scratch).code == 0)
    try copyDirectory(scratch("MERGED"), to: scratch("FINETUNED"))
  }

  /// Runs words as a shell would in the scratch directory; returns the code and both outputs as they came.
  private func shell(_ script: String, in scratch: ScratchDirectory) throws -> (code: Int32, text: String) {
    let tools = built("peft-tool").deletingLastPathComponent().path
    return try peft_toolTests.shell(
      script, in: scratch.path,
      environment: ProcessInfo.processInfo.environment.merging([
        "PATH": "\(tools):/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": scratch.path,
      ]) { $1 })
  }

  /// Text without its line ends, measured times and sizes.
  private func steady(_ text: String) -> String {
    text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
      .replacing(/[0-9.]+ (?:s|GB\/s|[kMG]?B|a second)\b/, with: "#")
  }

  @Test(arguments: Page.all) fileprivate func everyCommandOfThePagesRunsAsItIsWritten(page: Page) throws {
    #expect(page.strays.isEmpty, "commands outside blocks of commands: \(page.strays)")
    let scratch = try ScratchDirectory()
    try furnish(scratch)
    for block in page.blocks where ["console", "sh"].contains(block.language) {
      let (kind, reason) = (block.note.prefix { $0 != ":" }, block.note.drop { $0 != ":" }.dropFirst())
      #expect(
        block.note.isEmpty || (["run", "skip"].contains(kind) && reason.count > 5), "line \(block.line): \(block.note)")
      if kind == "skip" { continue }
      if block.language == "sh" {
        let answer = try shell(block.lines.joined(separator: "\n"), in: scratch)
        #expect(answer.code == 0, "\(page.name):\(block.line): \(answer.text)")
        continue
      }
      for shown in Shown.all(in: block) {
        let answer = try shell(shown.command, in: scratch)
        let fails = shown.answer.contains { $0.hasPrefix("peft-tool: ") }
        #expect((answer.code == 0) == !fails && answer.code != 127, "\(shown.command): \(answer.code) \(answer.text)")
        if kind == "run" { continue }
        var left = steady(answer.text)[...]
        let parts = shown.answer.joined(separator: "\n").split(separator: "\n...", omittingEmptySubsequences: false)
        for (index, part) in parts.enumerated() where !part.allSatisfy(\.isWhitespace) {
          let place = left.firstRange(of: steady(String(part)))
          #expect(
            place != nil && (index > 0 || place?.lowerBound == left.startIndex), "\(shown.command): \(answer.text)")
          left = left[(place?.upperBound ?? left.endIndex)...]
        }
        if parts.count == 1 { #expect(left.isEmpty, "\(shown.command): not shown: \(left)") }
      }
    }
  }

  @Test func theFirstScreenAndTheTasksAreThere() {
    let commands = Page.all.reduce(0) { sum, page in
      sum + page.blocks.count { ["console", "sh"].contains($0.language) && !$0.note.hasPrefix("skip") }
    }
    #expect(commands > 10)
    #expect(Page.all.first?.blocks.contains { $0.language == "console" && $0.note.isEmpty } == true)
  }

  /// Options in sentences, which nobody runs.
  @Test(arguments: Page.all) fileprivate func everyOptionThatAPageSpeaksOfIsThere(page: Page) throws {
    let scratch = try ScratchDirectory()
    for mention in page.mentions {
      let words = mention.split(separator: " ").map(String.init)
      // `peft-tool COMMAND --help` speaks of all of them.
      guard words.count > 1, words[1].allSatisfy({ $0.isLowercase || $0 == "-" }), !words[1].hasPrefix("-") else {
        continue
      }
      let help = try shell(
        "peft-tool \(words[1] == "help" || words[1] == "version" ? "--help" : "\(words[1]) --help")", in: scratch)
      #expect(help.code == 0, "\(mention): \(help.text)")
      for word in words.dropFirst(2) where word.hasPrefix("--") {
        let flag = word.prefix { $0 != "=" }
        #expect(help.text.contains(/\s(--[a-z-]+)/) && help.text.contains("\(flag)"), "\(page.name): \(mention)")
      }
    }
  }
}
