import PeftToolCLI
import TensorFiles
import TestSupport
import Testing

/// generate, perplexity and tree.
@Suite struct RunCommandTests {
  private let chat = Fixtures.path("running/chat")
  private let base = Fixtures.path("running/base")

  private func expected(_ name: String) throws -> [Int] {
    try JSONValue(contentsOf: "\(chat)/expected.json")[name]?["tokens"]?.elements?.compactMap(\.integerValue) ?? []
  }

  private func tokens(_ line: String) -> [Int] {
    JSONValue(parsing: line)?["tokens"]?.elements?.compactMap(\.integerValue) ?? []
  }

  @Test func aPromptAndAChatGoOnAsTransformersDoes() async throws {
    let plain = await run("generate", chat, "--prompt", "The quick brown", "-n", "24", "--json")
    #expect(plain.code == 0, "\(plain.error)")
    #expect(try tokens(plain.output) == expected("plain"))
    let answer = await run("generate", chat, "--chat", "--prompt", "Hello, world!", "-n", "24", "--json")
    #expect(try tokens(answer.output) == expected("chat"))
    let text = await run("generate", chat, "--chat", "--prompt", "Hello, world!", "-n", "24", "--quiet")
    #expect(text.output == (JSONValue(parsing: answer.output)?["text"]?.stringValue ?? "") + "\n" && text.error.isEmpty)
  }

  /// Escape sequences in tokens cannot control the terminal; a pipe gets what the model said.
  @Test func controlCharactersOfAModelsTextAreEscapedOnATerminalOnly() async throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("model"))
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
      try FileSystem.copy("\(chat)/\(name)", to: scratch("model/\(name)"))
    }
    var json = try JSONValue(contentsOf: "\(chat)/tokenizer.json")
    let first = try #require(expected("plain").first)
    let text = "\u{1B}]0;owned\u{7}\r\u{9B}2J\u{202E}\n\t\u{200D}é"
    json["added_tokens"] = .array(
      (json["added_tokens"]?.elements ?? []) + [
        .object([.init("id", .integer(first)), .init("content", .string(text)), .init("special", .bool(false))])
      ])
    try OpenFile.create(scratch("model/tokenizer.json")).write(json.compactText)
    let words = ["generate", scratch("model"), "--prompt", "The quick brown", "-n", "1", "--quiet"]
    let (shown, piped) = (await run(words, onTerminal: true), await run(words))
    let scalars = Array(text.unicodeScalars)
    #expect(Array(piped.output.unicodeScalars.prefix(scalars.count)) == scalars, "\(piped.error)")
    #expect(
      shown.output == "\\u{1b}]0;owned\\u{7}\\u{d}\\u{9b}2J\\u{202e}\n\t\u{200D}é\n",
      "\(shown.output.debugDescription)")
  }

  @Test func anAdaptersDirectoryStandsForItsBaseWithIt() async throws {
    let scratch = try ScratchDirectory()
    let made = await run("init", chat, Fixtures.path("running/first/adapter_config.json"), scratch("adapter"))
    #expect(made.code == 0, "\(made.error)")
    let path = scratch("adapter/adapter_config.json")
    let text = try FileSystem.text(path).replacing("fixtures/running", with: chat)
    try FileSystem.remove(path)
    try OpenFile.create(path).write(text)
    let answer = await run("generate", scratch("adapter"), "--prompt", "The quick brown", "-n", "24", "--json")
    #expect(try tokens(answer.output) == expected("plain"), "\(answer.error)")
  }

  @Test func aBatchGivesALineForEachPrompt() async throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("prompts.jsonl")).write(
      """
      "The quick brown"

      {"messages": [{"role": "user", "content": "Hello, world!"}]}
      """)
    let answer = await run("generate", chat, "--chat", "--prompts", scratch("prompts.jsonl"), "-n", "24")
    let lines = answer.output.split(separator: "\n")
    #expect(answer.code == 0 && lines.count == 2)
    #expect(try tokens(String(lines[1])) == expected("chat"))
    try OpenFile.create(scratch("bad.jsonl")).write("\"x\"\n{\"text\": 1}")
    let bad = await run("generate", chat, "--prompts", scratch("bad.jsonl"))
    #expect(bad.code == 2 && bad.error.contains("line 2"))
  }

  /// A copy of the chat model with another template.
  private func model(_ scratch: ScratchDirectory, template: String) throws -> String {
    let path = scratch("model")
    try FileSystem.makeDirectory(path)
    for name in ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]
    where FileSystem.kind("\(chat)/\(name)") == .file {
      try FileSystem.copy("\(chat)/\(name)", to: "\(path)/\(name)")
    }
    try OpenFile.create("\(path)/chat_template.jinja").write(template)
    return path
  }

  /// Tokens of the prompt tell which text the template made.
  @Test func aTemplatesVariablesToolsAndDocumentsComeFromFlagsAndLines() async throws {
    let scratch = try ScratchDirectory()
    let path = try model(
      scratch,
      template:
        "{{ messages[0].content }}{% if x is defined %}{{ 'a ' * x }}{% endif %}{{ 'b ' * (tools or []) | length }}"
        + "{{ 'c ' * (documents or []) | length }}{{ y }}")
    func count(_ line: some StringProtocol) -> Int {
      JSONValue(parsing: String(line))?["prompt_tokens"]?.integerValue ?? -1
    }
    func counts(_ words: String...) async throws -> [Int] {
      let answer = await run(["generate", path, "--chat", "-n", "1", "--json"] + words)
      #expect(answer.code == 0, "\(answer.error)")
      return answer.output.split(separator: "\n").map { count($0) }
    }
    let plain = try await counts("-p", "q")[0]
    let more = try await counts("-p", "q", "--chat-argument", "x=9")[0]
    #expect(more > plain)
    #expect(try await counts("-p", "q", "--chat-argument", "tools=[{},{},{}]")[0] > plain)
    try OpenFile.create(scratch("lines")).write(
      """
      {"prompt": "q", "x": 9}
      {"messages": [{"role": "user", "content": "q"}], "documents": [{}, {}, {}]}
      {"prompt": "q"}
      """)
    let lines = try await counts("--prompts", scratch("lines"))
    #expect(lines[0] == more && lines[1] > plain && lines[2] == plain)
    #expect(try await counts("-p", "q", "--continue-final-message")[0] < more)
    for (words, part) in [
      (["-p", "q", "--chat", "--chat-argument", "z=1"], "z=1"),
      (["-p", "q", "--chat", "--chat-argument", "x"], "NAME=VALUE"),
      (["-p", "q", "--chat-argument", "x=1"], "without --chat"),
      (["-p", "q", "--continue-final-message"], "without --chat"),
      (["-p", "q", "--chat", "--chat-argument", "tools=1"], "tools=1"),
    ] {
      let answer = await run(["generate", path] + words)
      #expect(answer.code == 2 && answer.output.isEmpty && answer.error.contains(part), "\(words): \(answer.error)")
    }
    for (line, flags) in [
      (#"{"prompt": "q", "z": 1}"#, ["--chat"]), (#"{"prompt": "q", "tools": 1}"#, ["--chat"]),
      (#"{"prompt": "q", "x": 1}"#, []),
      (#"{"messages": [{"role": "user", "content": "q"}]}"#, []), (#"{"messages": ["q"]}"#, ["--chat"]),
    ] {
      let file = scratch("bad\(line.utf8.count)\(flags.count)")
      try OpenFile.create(file).write(line)
      let answer = await run(["generate", path, "--prompts", file] + flags)
      #expect(answer.code == 2 && answer.error.contains("line 1"), "\(line): \(answer.error)")
    }
  }

  @Test func whatCannotBeDoneIsSaidAndNothingIsWritten() async throws {
    for (words, part) in [
      (["generate", chat], "--prompt"), (["generate", chat, "-p", "x", "-n", "1000"], "context"),
      (["generate", base, "-p", "x"], "tokenizer.json"), (["generate", chat, "-p", "x", "--top-p", "2"], "top-p"),
      (["generate", base, "-p", "x", "--chat"], "template"),
      (["generate", chat, "-p", "x", "-a", base], "adapter_config"),
      (["perplexity", chat, "/nonexistent"], "nonexistent"),
      (["tree", Fixtures.path("merge/t5/base")], "model_type 't5'"),
    ] {
      let answer = await run(words)
      #expect(answer.code == 2 && answer.output.isEmpty && answer.error.contains(part), "\(words): \(answer.error)")
    }
  }

  @Test func perplexityIsPrinted() async throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("text")).write("The quick brown fox jumps over the lazy dog.")
    let answer = await run("perplexity", chat, scratch("text"))
    #expect(answer.code == 0 && answer.output.hasPrefix("perplexity "), "\(answer.error)")
    let json = await run("perplexity", chat, scratch("text"), "--json", "--window", "8")
    #expect(JSONValue(parsing: json.output)?["tokens"]?.integerValue ?? 0 > 4)
  }

  @Test func theTreeIsPrintedWithAnAdapterAndWithout() async throws {
    let plain = await run("tree", Fixtures.path("models/opt-350m"))
    #expect(try plain.output == FileSystem.text(Fixtures.path("models/opt-350m/tree.txt")))
    let tuned = await run("tree", base, Fixtures.path("running/first"))
    #expect(try tuned.output == FileSystem.text(Fixtures.path("running/tree-first.txt")))
  }
}
