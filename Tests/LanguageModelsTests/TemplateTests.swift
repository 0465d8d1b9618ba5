import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import LanguageModels

/// Chat templates against transformers' renderer. Source: Fixtures/scripts/make_template_fixtures.py.
@Suite struct TemplateTests {
  private static let families = [
    "thinking", "coder", "channels", "turns", "visible", "alternating", "documents", "dated", "switches",
  ]
  /// The time of the fixtures: noon of 28 May 2026.
  private let seconds = 1_779_969_600

  @Test(arguments: families)
  func whatTheFamiliesTemplatesUseIsRenderedAsTransformersRendersIt(name: String) throws {
    let root = Fixtures.path("chat/\(name)")
    let template = try ChatTemplate(directory: root)
    let cases = try #require(try JSONValue(contentsOf: "\(root)/expected.json").elements)
    #expect(cases.count == 12)
    for (index, item) in cases.enumerated() {
      var conversation = ChatTemplate.Conversation(try #require(item["messages"]?.elements))
      conversation.tools = item["tools"]?.elements
      conversation.documents = item["documents"]?.elements
      conversation.arguments = item["arguments"]?.members ?? []
      conversation.continuesFinalMessage = item["continue"]?.boolValue ?? false
      guard let text = item["text"]?.stringValue else {
        #expect(throws: ModelError.self) { try template.render(conversation, at: seconds) }
        continue
      }
      let found = try template.render(conversation, at: seconds)
      #expect(Array(found.utf8) == Array(text.utf8), "case \(index): \(found)")
    }
  }

  /// transformers writes such a number for a tokenizer without a greatest length.
  @Test func aGreatestLengthBeyond64BitsIsNoObstacle() throws {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("chat_template.jinja"), "{{ eos_token }}{{ messages[0].content }}")
    try overwrite(
      scratch("tokenizer_config.json"),
      #"{"model_max_length": 1000000000000000019884624838656, "eos_token": "<end>"}"#)
    let message = try #require(JSONValue(parsing: #"{"role": "user", "content": "Hello"}"#))
    let conversation = ChatTemplate.Conversation([message])
    #expect(try ChatTemplate(directory: scratch.path).render(conversation, at: seconds) == "<end>Hello")
    #expect(throws: TensorFileError.self) { try JSONValue(contentsOf: scratch("tokenizer_config.json")) }
  }

  /// Source: Fixtures/scripts/make_template_part_fixtures.py.
  @Test func partsOfTheFamiliesTemplatesAreRenderedForEveryConversation() throws {
    let document = try JSONValue(contentsOf: Fixtures.path("chat/parts.json"))
    let conversations = try #require(document["conversations"]?.elements)
    let parts = try #require(document["parts"]?.elements)
    #expect(parts.count > 40)
    for part in parts {
      let name = try #require(part["name"]?.stringValue)
      let results = try #require(part["results"]?.elements)
      let scratch = try ScratchDirectory()
      try OpenFile.create(scratch("chat_template.jinja")).write(try #require(part["template"]?.stringValue))
      let template = try ChatTemplate(directory: scratch.path)
      for (index, (item, result)) in zip(conversations, results).enumerated() {
        var conversation = ChatTemplate.Conversation(try #require(item["messages"]?.elements))
        conversation.tools = item["tools"]?.elements
        conversation.documents = item["documents"]?.elements
        conversation.arguments = item["arguments"]?.members ?? []
        guard let text = result["text"]?.stringValue else {
          #expect(throws: ModelError.self, "\(name) \(index)") { try template.render(conversation, at: seconds) }
          continue
        }
        do {
          let found = try template.render(conversation, at: seconds)
          #expect(Array(found.utf8) == Array(text.utf8), "\(name) \(index): \(found)")
        } catch { Issue.record("\(name) \(index): \(error)") }
      }
    }
  }

  private func render(_ source: String, steps: Int = JinjaBudget.stepLimit) throws -> String {
    let message = ChatTemplate.message(role: "user", "x")
    return try JinjaTemplate(source).render(
      [
        .init("messages", .array([message])), .init("tools", .null), .init("documents", .null),
        .init("add_generation_prompt", .bool(true)),
      ], at: seconds, stepLimit: steps)
  }

  @Test func expressionsAndStatementsGiveWhatJinjaGives() throws {
    let cases = try #require(try JSONValue(contentsOf: Fixtures.path("chat/expressions.json")).elements)
    #expect(cases.count > 280)
    for item in cases {
      let source = try #require(item["template"]?.stringValue)
      if let text = item["text"]?.stringValue {
        do {
          let found = try render(source)
          #expect(Array(found.utf8) == Array(text.utf8), "\(source) gives \(found), not \(text)")
        } catch { Issue.record("\(source): \(error)") }
      } else {
        #expect(throws: JinjaFailure.self, "\(source)") { try render(source) }
      }
    }
  }

  /// Templates that would take all memory or time, or end by a signal.
  private static let bombs = [
    "{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}", "{{ 4611686018427387904 * 2 }}",
    "{{ (-9223372036854775807 - 1) // -1 }}", "{{ 2 ** 64 }}", "{{ -(-9223372036854775807 - 1) }}",
    "{{ 9223372036854775808 }}",
    "{{ range(10 ** 9) }}", "{{ range(-9223372036854775807, 9223372036854775807) }}", "{{ 1e300 | int }}",
    "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}",
    "{% set ns = namespace(x={}) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
      + "{{ ns.x == ns.y }}",
    "{% set ns = namespace(x=(), y=()) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{{ 99999999 in range(100000) | list }}{% endfor %}",
    "{% set s = 'ab ' * 1000000 %}{% for a in range(100000) %}{{ s.split()[0] }}{% endfor %}",
    "{% set s = 'ab ' * 1000000 %}{% for a in range(100000) %}{{ s[a:][0] }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for a in range(100000) %}{{ (s + 'b') in (s * 2) }}{% endfor %}",
    "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}", "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a\\n' * 100000) | indent(1000000) }}", "{{ ('a\\n' * 100000) | indent(1000000, true, true) }}",
    "{{ range(100) | list | tojson(indent=1000000) }}", "{{ range(100) | join('a' * 1000000) }}",
    "{{ '%1000000d%1000000d' * 50 % ((1,) * 100) }}", "{{ ('{:1000000}' * 100).format(*range(100)) }}",
    "{{ ('x' * 4000000) | replace('x', 'aaaaaaaa') }}", "{{ ('\\x01' * 6000000) | tojson }}",
    "{{ [('\\x01' * 6000000)] }}", "{{ ('&' * 12000000) | escape }}",
    "{{ ('a ' * 500000) | wordwrap(1, true, 'b' * 1000) }}",
    "{{ ('\\t' * 1000).expandtabs(100000) }}",
    "{% macro m() %}{{ 'a' * 1000 }}{% endmacro %}{% set a = 'a' * 1000000 %}{{ a\(String(repeating: " ~ m() ~ a", count: 100)) }}",
    "{{ 'a' * 9223372036854775807 }}", "{{ 'a'.center(9223372036854775807) }}", "{{ '%999999999d' | format(1) }}",
    "{{ '{:999999999}'.format(1) }}", "{{ 'a' | indent(9223372036854775807) }}",
    "{{ [1] | batch(99999999999, 0) | list }}",
    "{{ [1] | slice(99999999999) | list }}", "{{ [[[[1]]]] | tojson(indent=9223372036854775807) }}",
    "{{ 'a\\tb'.expandtabs(999999999999) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
    "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}",
    "{% set ns = namespace(m=1) %}{% for i in range(100000) %}{% set old = ns.m %}{% macro m() %}{{ old }}{% endmacro %}{% set ns.m = m %}{% endfor %}"
      + "{{ 'a' * 9223372036854775807 }}",
    "{% set ns = namespace(l=1) %}{% for i in range(50000) %}{% set old = ns.l %}{% for j in [1] %}{% set ns.l = loop %}{% endfor %}{% endfor %}"
      + "{{ 'a' * 9223372036854775807 }}",
    "{% set ns = namespace(l=1) %}{% for i in range(50000) %}{% for j in [1] %}{{ loop.changed(ns.l) }}{% set ns.l = loop %}{% endfor %}{% endfor %}"
      + "{{ 'a' * 9223372036854775807 }}",
    "{{ 'x' | nothing }}", "{{ unknown_function() }}", "{{ messages.unknown() }}", "{{ x.y }}",
    "{{ \(String(repeating: "(", count: 9000)) }}", "{{ \(String(repeating: "[", count: 9000)) }}",
    String(repeating: "{% if x %}", count: 9000),
    "{{ \(String(repeating: "-", count: 9000))1 }}", "{{ x\(String(repeating: "[x", count: 9000)) }}",
    "{% for \(String(repeating: "(", count: 9000)) %}", "{{ x\(String(repeating: "|f(x", count: 9000)) }}",
    String(repeating: "{% macro m() %}", count: 9000), "{{ 1 if \(String(repeating: "1 if 1 else ", count: 9000)) }}",
    String(repeating: "x", count: 2 << 20),
  ]

  /// Much work in one statement, of which little is alive at a time.
  @Test func whatAStatementHasDoneWithIsNotCounted() throws {
    #expect(
      try render("{% set a = 'a' * 200000 %}{{ (a\(String(repeating: " | upper | lower", count: 30))) | length }}")
        == "200000")
    #expect(try render("{{ ('ab' * 200000\(String(repeating: " + 'x'", count: 100))) | length }}") == "400100")
    #expect(try render("{{ ((range(10000) | list | string) + (range(10000) | list | tojson)) | length }}") == "117780")
    #expect(try render("{{ (range(3000) | join('a' * 1000)) | length }}") == "3009890")
  }

  @Test(arguments: bombs)
  func aTemplateThatWouldRunAwayEndsInAnError(source: String) throws {
    #expect(throws: JinjaFailure.self) { try render(source) }
  }

  @Test(arguments: [
    "{{ \(String(repeating: "not ", count: 9000))x }}", "{{ 1\(String(repeating: " + 1", count: 9000)) }}",
    "{{ \(String(repeating: "(", count: 40))1\(String(repeating: ")", count: 40)) }}",
    "{{ 'a'\(String(repeating: "|upper", count: 9000)) }}",
    "{{ 'a'\(String(repeating: " 'a'", count: 100_000)) }}",
    String(repeating: "{% if true %}", count: 40) + String(repeating: "{% endif %}", count: 40),
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(15) }}",
  ])
  func aLongTemplateIsRendered(source: String) throws { _ = try render(source) }

  /// Seeded damage to templates: an error or a text, never a trap.
  @Test func damagedTemplatesNeverTrap() throws {
    var random = TorchGenerator(seed: 11)
    func next(_ bound: Int) -> Int { Int(random.nextLongBits() % UInt64(bound)) }
    var seeds = Self.bombs.filter { $0.utf8.count < 1000 }
    for name in Self.families { seeds.append(try FileSystem.text(Fixtures.path("chat/\(name)/chat_template.jinja"))) }
    for item in try JSONValue(contentsOf: Fixtures.path("chat/expressions.json")).elements ?? [] {
      seeds.append(item["template"]?.stringValue ?? "")
    }
    let pieces = seeds.map { [Unicode.Scalar]($0) }
    for _ in 0..<fuzzRounds / 4 {
      var source = pieces[next(pieces.count)]
      for _ in 0..<1 + next(4) {
        let place = next(source.count + 1)
        switch next(4) {
        case 0 where place < source.count: source.remove(at: place)
        case 1: source.insert(Unicode.Scalar(UInt8(0x20 + next(0x5F))), at: place)
        case 2: source[place...] = source[place...].prefix(next(40))
        default:
          // A part of another template.
          let other = pieces[next(pieces.count)]
          let start = next(other.count + 1)
          source.insert(contentsOf: other[start...].prefix(next(60)), at: place)
        }
      }
      _ = try? render(String(source), steps: 3000)
    }
  }

  @Test func theTemplateForToolsIsTakenWhereThereAreTools() throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("tokenizer_config.json")).write(
      #"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | length }}{{ x }}"}]}"#
    )
    let template = try ChatTemplate(directory: scratch.path)
    var conversation = ChatTemplate.Conversation([ChatTemplate.message(role: "user", "x")])
    #expect(try template.render(conversation) == "plain")
    conversation.tools = [.object([])]
    #expect(try template.render(conversation) == "1")
    #expect(template.takes(argument: "x") && !template.takes(argument: "y") && !template.takes(argument: "messages"))
  }
}
