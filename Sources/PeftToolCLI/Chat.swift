internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// A conversation with a model, and what can be changed while it goes on.
struct Chat {
  /// Tokens of an answer at most, if it is not told.
  static let newTokens = 1000

  private let model: PeftModel
  private let tokenizer: Tokenizer
  private let request: GenerationRequest
  private var template: ChatRequest
  private var messages: [JSONValue] = []
  private var adapters: [(name: String, path: String)] = []
  private var answers: UInt64 = 0
  private let kept = KeptSequence()
  private let hub: Hub
  private let console: Console
  private let writesJSON: Bool

  init(_ invocation: Invocation, _ console: Console) throws {
    let places = try ModelPlaces(invocation)
    request = try GenerationRequest(invocation, directory: places.base, newTokens: Self.newTokens)
    template = try ChatRequest(invocation, directory: places.texts)
    template.system = invocation.value("system")
    let given = try places.adapters(invocation)
    for input in given { adapters.append((Self.name(of: input.directory, among: adapters), input.directory)) }
    model = try places.load(zip(adapters, given).map { (name: $0.name, input: $1) })
    tokenizer = try places.tokenizer(for: model)
    hub = Hub(isOffline: invocation.has("offline"))
    self.console = console
    writesJSON = invocation.has("json")
  }

  /// The last part of an adapter's path, or the whole of it if another adapter is called so.
  private static func name(of path: String, among others: [(name: String, path: String)]) -> String {
    var end = path
    while end.hasSuffix("/") && end.count > 1 { end.removeLast() }
    let name = FileSystem.lastComponent(end)
    return others.contains { $0.name == name } ? path : name
  }

  /// Takes a line. Returns false if it ends the conversation.
  ///
  /// Throws `UsageError` for an order that cannot be followed, and what answering throws; the conversation is then what it was.
  mutating func take(_ line: ChatLine) throws -> Bool {
    switch line {
    case .message(let text): try answer(text)
    case .order(.exit, _): return false
    case .order(.help, _): console.output(Order.list + "\n")
    case .order(.reset, _): messages = []
    case .order(.system, let text): template.system = text.isEmpty ? nil : text
    case .order(.adapters, _): listAdapters()
    case .order(.adapter, let text): try useAdapters(text.split(separator: " ").map(String.init))
    case .unknown(let word):
      throw UsageError.unknownOrder(found: word, nearest: nearest(word, Order.allCases.map { "/\($0.rawValue)" }))
    }
    return true
  }

  private mutating func answer(_ text: String) throws {
    let asked = messages + [ChatTemplate.message(role: "user", text)]
    let ids = try tokenizer.encode(template.render(Prompt(messages: asked)), addsSpecial: false)
    var request = request
    let limit = model.model.contextLength
    // The last token that is made is not read again.
    let space = limit - model.virtualTokens - ids.count + 1
    guard space > 0 else { throw UsageError.conversationTooLong(tokens: model.virtualTokens + ids.count, limit: limit) }
    request.stop.newTokens = min(request.stop.newTokens, space)
    request.sampling.seed &+= answers
    let stops = Interruption.stopCount
    let answer = try Continuation(
      of: ids, model, tokenizer, request, keeping: kept, console, asJSON: writesJSON,
      isStopped: { Interruption.stopCount > stops })
    messages = asked + [ChatTemplate.message(role: "assistant", answer.text)]
    answers += 1
  }

  private func listAdapters() {
    let active = model.active
    func weight(_ name: String) -> Float? { active.first { $0.name == name }?.weight }
    if writesJSON {
      let list = adapters.map { adapter in
        JSONValue.object([
          .init("name", .string(adapter.name)), .init("path", .string(adapter.path)),
          .init("weight", weight(adapter.name).map { .number(Double($0)) } ?? .null),
        ])
      }
      return console.json(.object([.init("adapters", .array(list))]))
    }
    guard !adapters.isEmpty else { return console.line("no adapters; /adapter PATH loads one") }
    table(adapters.map { [$0.name, weight($0.name).map { numberText(Double($0)) } ?? "off", $0.path] }).forEach(
      console.line)
  }

  /// Lets adapters act and no others: each by its name, or by its path or repository if it is not loaded yet, with a weight.
  private mutating func useAdapters(_ words: [String]) throws {
    guard !words.isEmpty else {
      throw UsageError.orderNeeds(order: "/adapter", what: "a name or a path, with :WEIGHT or without, or none")
    }
    let previous = model.active
    var wanted: [(name: String, weight: Float)] = []
    do {
      if words != ["none"] || isLoaded("none") {
        for word in words { wanted.append(try adapter(word)) }
      }
      try model.setActive(wanted)
    } catch {
      try model.setActive(previous)
      throw error
    }
    let active = wanted.map { "\($0.name):\(numberText(Double($0.weight)))" }
    console.note(active.isEmpty ? "no adapter acts" : "adapters: \(active.joined(separator: " "))")
  }

  private func isLoaded(_ name: String) -> Bool { adapters.contains { $0.name == name } }

  private mutating func adapter(_ word: String) throws -> (name: String, weight: Float) {
    if isLoaded(word) { return (word, 1) }
    if let colon = word.lastIndex(of: ":"), isLoaded(String(word[..<colon])) {
      let (name, text) = (String(word[..<colon]), String(word[word.index(after: colon)...]))
      guard let weight = Float(text), weight.isFinite else { throw UsageError.badWeight(adapter: name, found: text) }
      return (name, weight)
    }
    let place = ModelWord(word, as: "adapter", isModel: true, isWeighted: true)
    try place.check(hub)
    let downloads = DownloadLines(console)
    let input = try adapterInput(place.located(hub) { downloads.update($0) })
    if let known = adapters.first(where: { $0.path == input.directory }) { return (known.name, Float(input.weight)) }
    let name = Self.name(of: input.directory, among: adapters)
    try model.load(input.directory, named: name)
    adapters.append((name, input.directory))
    return (name, Float(input.weight))
  }
}
