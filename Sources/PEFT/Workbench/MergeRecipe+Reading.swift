internal import TensorFiles

extension MergeRecipe {
  /// Reads a recipe's file. Every key must be known and have an effect that is known; nothing is passed over in silence.
  ///
  /// Throws `.adapter` with `.file`, `.notYAML`, `.unknownKey`, `.unsupported`, `.badValue`, `.missing`, `.inputs`.
  public init(path: String) throws(RecipeError) {
    let text = try asRecipeError { () throws(AdapterError) in
      try asAdapterError { () throws(TensorFileError) in try FileSystem.text(path, limit: YAMLReader.fileLimit) }
    }
    try self.init(text: text, path: path)
  }

  /// As above, of a text. - Parameter path: for messages.
  public init(text: String, path: String) throws(RecipeError) {
    let document: JSONValue
    do throws(YAMLFailure) { document = try YAMLReader.value(of: text) } catch {
      throw .notYAML(path: path, line: error.line, reason: error.reason)
    }
    guard document.members != nil else {
      throw .badValue(
        path: path, at: "the recipe", expected: "keys such as 'merge_method'", found: document.compactText)
    }
    var reader = RecipeReader(path: path)
    try reader.checkKeys(
      document, at: "",
      known: [
        "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
        "tokenizer_source", "tokenizer", "chat_template",
      ])
    guard let name = document["merge_method"] else { throw .missing(path: path, at: "", key: "merge_method") }
    reader.method = try reader.method(name)
    if let template = document["chat_template"], template != .null {
      throw .unsupported(
        path: path, what: "'chat_template'", reason: "the tokenizer's files are copied. Edit them afterwards.")
    }
    self.path = path
    self.text = text
    method = reader.method
    base = try reader.model(document["base_model"], at: "base_model")
    var levels = [try reader.parameters(document["parameters"], at: "parameters")]
    let forms = ["models", "slices", "modules"].filter { document[$0] != nil && document[$0] != .null }
    guard forms.count == 1 else {
      throw .inputs(
        path: path, at: forms.isEmpty ? "the recipe" : forms.joined(separator: " and "),
        reason: "exactly one of 'models', 'slices' and 'modules' must be there.")
    }
    var (content, place) = (document, "")
    if forms == ["modules"] {
      content = try reader.onlyModule(document["modules"] ?? .null)
      place = "modules.default."
      levels.insert(try reader.parameters(content["parameters"], at: "\(place)parameters"), at: 0)
    }
    parameters = levels
    if let slices = content["slices"], slices != .null {
      isSliced = true
      self.slices = try reader.list(slices, at: "\(place)slices") { element, place throws(RecipeError) in
        try reader.slice(element, at: place)
      }
    } else {
      isSliced = false
      let sources = try reader.list(content["models"] ?? .null, at: "\(place)models") {
        element, place throws(RecipeError) in try reader.source(element, at: place, isSliced: false)
      }
      self.slices = [Slice(sources: sources, base: nil, parameters: [:], place: "\(place)models")]
    }
    dtype = try reader.dtype(document["dtype"], at: "dtype")
    outDType = try reader.dtype(document["out_dtype"], at: "out_dtype")
    tokenizer = try reader.tokenizer(document)
    notes = reader.notes
    let count = models.count
    guard count <= Self.modelLimit else {
      throw .inputs(
        path: path, at: "\(place)\(forms[0])", reason: "\(count) models; a recipe may have \(Self.modelLimit).")
    }
  }
}

/// Reads the parts of a recipe.
private struct RecipeReader {
  let path: String
  var method = RecipeMethod.linear
  var notes: [String] = []

  init(path: String) { self.path = path }

  func checkKeys(_ json: JSONValue, at place: String, known: [String]) throws(RecipeError) {
    guard let members = json.members else {
      throw .badValue(path: path, at: place, expected: "keys with values", found: json.compactText)
    }
    for member in members where !known.contains(where: { $0.isExactly(member.key) }) {
      throw .unknownKey(path: path, at: place, key: member.key, nearest: nearestNames(to: member.key, in: known))
    }
  }

  func list<Element>(
    _ json: JSONValue, at place: String, _ read: (JSONValue, String) throws(RecipeError) -> Element
  ) throws(RecipeError) -> [Element] {
    guard let elements = json.elements, !elements.isEmpty else {
      throw .badValue(path: path, at: place, expected: "a list of at least one", found: json.compactText)
    }
    var result: [Element] = []
    for (index, element) in elements.enumerated() { result.append(try read(element, "\(place)[\(index)]")) }
    return result
  }

  func method(_ json: JSONValue) throws(RecipeError) -> RecipeMethod {
    let name = json.stringValue ?? json.compactText
    if let method = RecipeMethod(rawValue: name) { return method }
    let all = RecipeMethod.allCases.map(\.rawValue)
    if RecipeMethod.others.contains(name) {
      throw .unsupported(
        path: path, what: "merge_method '\(name)'", reason: "known are \(all.joined(separator: ", ")).")
    }
    let nearest = nearestNames(to: name, in: all)
    throw .badValue(
      path: path, at: "merge_method",
      expected: nearest.isEmpty ? "one of \(all.joined(separator: ", "))" : nearest.joined(separator: " or "),
      found: "'\(name)'")
  }

  /// A word, or mergekit's long form; nil if there is none.
  func model(_ json: JSONValue?, at place: String) throws(RecipeError) -> MergeRecipe.Model? {
    guard let json, json != .null else { return nil }
    let expected = "a path, a repository, or base+adapter"
    if json.members != nil {
      try checkKeys(json, at: place, known: ["model", "lora", "override_architecture"])
      if let name = json["override_architecture"], name != .null {
        throw .unsupported(
          path: path, what: "\(place).override_architecture", reason: "models are read as their config.json says.")
      }
      guard let base = try modelPath(json["model"], at: "\(place).model") else {
        throw .missing(path: path, at: place, key: "model")
      }
      return MergeRecipe.Model(base: base, adapter: try modelPath(json["lora"], at: "\(place).lora"))
    }
    // A directory may have a number's name.
    guard json.elements == nil, let model = MergeRecipe.Model(json.stringValue ?? json.compactText) else {
      throw .badValue(path: path, at: place, expected: expected, found: json.compactText)
    }
    return model
  }

  private func modelPath(_ json: JSONValue?, at place: String) throws(RecipeError) -> String? {
    guard let json, json != .null else { return nil }
    if let word = json.stringValue, !word.isEmpty { return word }
    guard json.members != nil else {
      throw .badValue(path: path, at: place, expected: "a path or a repository", found: json.compactText)
    }
    try checkKeys(json, at: place, known: ["path", "revision"])
    guard let word = json["path"]?.stringValue else { throw .missing(path: path, at: place, key: "path") }
    return json["revision"]?.stringValue.map { "\(word)@\($0)" } ?? word
  }

  mutating func parameters(_ json: JSONValue?, at place: String) throws(RecipeError) -> [String: RecipeSetting] {
    guard let json, json != .null else { return [:] }
    let own = method.parameters
    try checkKeys(json, at: place, known: own.map(\.name) + RecipeMethod.parameterNames.sorted())
    var settings: [String: RecipeSetting] = [:]
    for member in json.members ?? [] {
      guard let parameter = own.first(where: { $0.name == member.key }) else {
        // It is only about the memory that mergekit takes.
        if member.key != "int8_mask" { notes.append("\(place).\(member.key) has no effect with \(method.rawValue)") }
        continue
      }
      settings[member.key] = try RecipeSetting(
        member.value, as: parameter.form, path: path, at: "\(place).\(member.key)")
    }
    return settings
  }

  mutating func source(
    _ json: JSONValue, at place: String, isSliced: Bool
  ) throws(RecipeError) -> MergeRecipe.Source {
    try checkKeys(json, at: place, known: ["model", "parameters"] + (isSliced ? ["layer_range"] : []))
    guard let model = try model(json["model"], at: "\(place).model") else {
      throw .missing(path: path, at: place, key: "model")
    }
    var layers: Range<Int>?
    if isSliced {
      guard let range = json["layer_range"] else { throw .missing(path: path, at: place, key: "layer_range") }
      let bounds = range.elements?.compactMap(\.integerValue) ?? []
      guard range.elements?.count == 2, bounds.count == 2, bounds[0] >= 0, bounds[1] >= bounds[0] else {
        throw .badValue(
          path: path, at: "\(place).layer_range",
          expected: "the first layer and the one after the last, such as [0, 16]",
          found: range.compactText)
      }
      layers = bounds[0]..<bounds[1]
    }
    return MergeRecipe.Source(
      model: model, layers: layers, parameters: try parameters(json["parameters"], at: "\(place).parameters"))
  }

  mutating func slice(_ json: JSONValue, at place: String) throws(RecipeError) -> MergeRecipe.Slice {
    try checkKeys(json, at: place, known: ["sources", "base_model", "parameters", "residual_weight"])
    if let weight = json["residual_weight"], weight != .null {
      throw .unsupported(
        path: path, what: "\(place).residual_weight",
        reason: "mergekit reads it and does nothing with it. Leave it out.")
    }
    guard let sources = json["sources"] else { throw .missing(path: path, at: place, key: "sources") }
    var read: [MergeRecipe.Source] = []
    let elements = try list(sources, at: "\(place).sources") { element, place throws(RecipeError) in (element, place) }
    for (element, place) in elements { read.append(try source(element, at: place, isSliced: true)) }
    return MergeRecipe.Slice(
      sources: read, base: try model(json["base_model"], at: "\(place).base_model"),
      parameters: try parameters(json["parameters"], at: "\(place).parameters"), place: place)
  }

  /// `modules` with the one module that models of text have.
  func onlyModule(_ json: JSONValue) throws(RecipeError) -> JSONValue {
    guard let members = json.members, members.count == 1, let only = members.first, only.key.isExactly("default") else {
      throw .unsupported(
        path: path, what: "'modules' other than 'default'",
        reason: "models of several modules are merged as a whole: use 'models'.")
    }
    try checkKeys(only.value, at: "modules.default", known: ["slices", "models", "parameters"])
    let forms = ["models", "slices"].filter { only.value[$0] != nil && only.value[$0] != .null }
    guard forms.count == 1 else {
      throw .inputs(path: path, at: "modules.default", reason: "exactly one of 'models' and 'slices' must be there.")
    }
    return only.value
  }

  func dtype(_ json: JSONValue?, at place: String) throws(RecipeError) -> DType? {
    guard let json, json != .null else { return nil }
    let name = (json.stringValue ?? json.compactText).replacing("torch.", with: "")
    switch name {
    case "bfloat16": return .bf16
    case "float16": return .f16
    case "float32": return .f32
    case "float64", "int64":
      throw .unsupported(path: path, what: "\(place) '\(name)'", reason: "results are rounded to 16 or 32 bits.")
    default: throw .badValue(path: path, at: place, expected: "bfloat16, float16 or float32", found: "'\(name)'")
    }
  }

  func tokenizer(_ document: JSONValue) throws(RecipeError) -> MergeRecipe.TokenizerSource? {
    var (source, place) = (document["tokenizer_source"], "tokenizer_source")
    if let settings = document["tokenizer"], settings != .null {
      guard source == nil || source == .null else {
        throw .inputs(path: path, at: "tokenizer and tokenizer_source", reason: "only one of them may be there.")
      }
      try checkKeys(settings, at: "tokenizer", known: ["source", "tokens", "pad_to_multiple_of"])
      for key in ["tokens", "pad_to_multiple_of"] where settings[key].map({ !$0.isEmptyOrFalse }) == true {
        throw .unsupported(path: path, what: "tokenizer.\(key)", reason: "tokenizers are only copied.")
      }
      (source, place) = (settings["source"] ?? .string("union"), "tokenizer.source")
    }
    switch source?.stringValue {
    case "base"?: return .base
    case "union"?: return .union
    default: return try model(source, at: place).map { .model($0) }
    }
  }
}
