import Glibc
import PEFT
import TensorFiles

/// A base in TinyLlama-1.1B's shapes, filled with small random bf16 values, and adapters for it.
struct SyntheticModel {
  let layers: Int
  let directory: String
  private let hidden = 2048
  private let intermediate = 5632
  private let keyValue = 256
  private let vocabulary = 32000

  var base: String { FileSystem.join(directory, "base-\(layers)") }

  /// A model that was trained from the base in full.
  var tuned: String { FileSystem.join(directory, "tuned-\(layers)") }

  private var tensors: [SafetensorsLayout.Item] {
    func item(_ name: String, _ shape: [Int]) -> SafetensorsLayout.Item {
      SafetensorsLayout.Item(name: name, dtype: .bf16, shape: shape)
    }
    var items = [item("model.embed_tokens.weight", [vocabulary, hidden])]
    for layer in 0..<layers {
      let prefix = "model.layers.\(layer)"
      for (name, shape) in linears { items.append(item("\(prefix).\(name).weight", shape)) }
      items.append(item("\(prefix).input_layernorm.weight", [hidden]))
      items.append(item("\(prefix).post_attention_layernorm.weight", [hidden]))
    }
    items.append(item("model.norm.weight", [hidden]))
    items.append(item("lm_head.weight", [vocabulary, hidden]))
    return items
  }

  private var linears: [(String, [Int])] {
    [
      ("self_attn.q_proj", [hidden, hidden]), ("self_attn.k_proj", [keyValue, hidden]),
      ("self_attn.v_proj", [keyValue, hidden]), ("self_attn.o_proj", [hidden, hidden]),
      ("mlp.gate_proj", [intermediate, hidden]), ("mlp.up_proj", [intermediate, hidden]),
      ("mlp.down_proj", [hidden, intermediate]),
    ]
  }

  /// Where an adapter stands.
  func adapter(_ name: String) -> String { FileSystem.join(directory, "adapter-\(layers)-\(name)") }

  /// Makes base and adapters, unless they are there already.
  func make() throws {
    try makeBase()
    try makeAdapter("qv", targets: .names(["q_proj", "v_proj"]))
    try makeAdapter("all", targets: .pattern(ModuleRule.allLinear))
    try makeAdapter("dora", targets: .pattern(ModuleRule.allLinear), dora: true)
  }

  /// Makes adapters of other methods for all linear layers, unless they are there already.
  func makeMethods() throws {
    try makeMethod("oft", #"{"peft_type": "OFT", "oft_block_size": 32}"#) { _, input in
      [("oft_R.weight", [input / 32, 496])]
    }
    try makeMethod("loha", #"{"peft_type": "LOHA", "r": 16, "alpha": 16}"#) { output, input in
      [
        ("hada_w1_a", [output, 16]), ("hada_w1_b", [16, input]), ("hada_w2_a", [output, 16]),
        ("hada_w2_b", [16, input]),
      ]
    }
    // The factors nearest to the square root, as PEFT takes them.
    try makeMethod("lokr", #"{"peft_type": "LOKR", "r": 16, "alpha": 16}"#) { output, input in
      let (rows, columns) = (nearestFactor(output), nearestFactor(input))
      return [
        ("lokr_w1", [rows, columns]), ("lokr_w2_a", [output / rows, 16]), ("lokr_w2_b", [16, input / columns]),
      ]
    }
  }

  private func nearestFactor(_ number: Int) -> Int {
    var factor = Int(Double(number).squareRoot())
    while number % factor != 0 { factor -= 1 }
    return factor
  }

  private func makeMethod(
    _ name: String, _ config: String, tensors: (Int, Int) -> [(String, [Int])]
  ) throws {
    let path = adapter(name)
    guard FileSystem.kind(path) == nil, var settings = JSONValue(parsing: config) else { return }
    settings["target_modules"] = .array(linears.map { .string(String($0.0.split(separator: ".")[1])) })
    settings["task_type"] = .string("CAUSAL_LM")
    var items: [SafetensorsLayout.Item] = []
    for layer in 0..<layers {
      for (module, shape) in linears {
        for (role, extents) in tensors(shape[0], shape[1]) {
          items.append(
            SafetensorsLayout.Item(
              name: "base_model.model.model.layers.\(layer).\(module).\(role)", dtype: .f32, shape: extents))
        }
      }
    }
    try write(items, settings.compactText, to: path)
  }

  /// An adapter in the shapes of a 7B model, rank 64 on all linear layers: 640 MB.
  func makeLargeAdapter() throws {
    let path = FileSystem.join(directory, "adapter-7b-r64")
    guard FileSystem.kind(path) == nil else { return }
    let (hidden, intermediate) = (4096, 11008)
    var items: [SafetensorsLayout.Item] = []
    for layer in 0..<32 {
      for name in ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] {
        let input = name == "down_proj" ? intermediate : hidden
        let output = name == "gate_proj" || name == "up_proj" ? intermediate : hidden
        let stem = "base_model.model.model.layers.\(layer).\(name.count == 6 ? "self_attn" : "mlp").\(name)"
        items.append(SafetensorsLayout.Item(name: "\(stem).lora_A.weight", dtype: .f32, shape: [64, input]))
        items.append(SafetensorsLayout.Item(name: "\(stem).lora_B.weight", dtype: .f32, shape: [output, 64]))
      }
    }
    var config = PeftConfig()
    config.rank = 64
    try write(items, config.fileText, to: path)
  }

  private func write(_ items: [SafetensorsLayout.Item], _ config: String, to path: String) throws {
    try FileSystem.makeDirectory(path)
    try OpenFile.create(FileSystem.join(path, PeftConfig.fileName)).write(config)
    let weights = FileSystem.join(path, Adapter.weightsName)
    let layout = try SafetensorsLayout(path: weights, items: items)
    let file = try layout.create(at: weights)
    var generator = SplitMix(state: 7)
    for entry in layout.entries {
      // f32 values of magnitude 2^-7 to 2^-4.
      let words = (0..<entry.elementCount).map { _ in
        UInt32(truncatingIfNeeded: generator.next()) & 0x81FF_FFFF | 0x3C00_0000
      }
      try file.write(words.span.bytes, at: entry.byteRange.lowerBound)
    }
  }

  /// Makes the base in three shards, unless it is there already.
  private func makeBase() throws { try makeModel(at: base) }

  /// Makes the base and a model trained from it: a random half of all values moves by one unit in the last place.
  func makePair() throws {
    try makeBase()
    try makeModel(at: tuned, moved: 0x0001_0001_0001_0001)
  }

  /// - Parameter moved: bits of four values that are turned over or not.
  private func makeModel(at path: String, moved: UInt64 = 0) throws {
    guard FileSystem.kind(path) == nil else { return }
    let output = try OutputDirectory(target: path, replacing: false, inputs: [])
    let items = tensors
    let total = items.reduce(0) { $0 + $1.byteCount }
    var shards: [[SafetensorsLayout.Item]] = [[], [], []]
    var done = 0
    for item in items {
      shards[min(2, done * 3 / total)].append(item)
      done += item.byteCount
    }
    var generator = SplitMix(state: 1)
    var shardOfTensor: [ExactName: String] = [:]
    for (index, items) in shards.enumerated() {
      let name = "model-0000\(index + 1)-of-00003.safetensors"
      let layout = try SafetensorsLayout(path: output.path(name), items: items)
      let file = try layout.create(at: output.path(name))
      for entry in layout.entries {
        shardOfTensor[entry.name] = name
        try fill(file, entry.byteRange, &generator, moved)
      }
    }
    try OpenFile.create(output.path(Checkpoint.indexName)).write(
      ShardIndex.text(shardOfTensor: shardOfTensor, totalBytes: total, previous: nil))
    try OpenFile.create(output.path("config.json")).write(
      """
      {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": \(hidden),
        "intermediate_size": \(intermediate),
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": \(layers),
        "num_key_value_heads": 4,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "vocab_size": \(vocabulary)
      }

      """)
    try output.commit(durable: false)
  }

  private func fill(_ file: OpenFile, _ range: Range<Int>, _ generator: inout SplitMix, _ moved: UInt64) throws {
    var moves = SplitMix(state: 2)
    var block = [UInt64](repeating: 0, count: 1 << 17)
    var position = range.lowerBound
    while position < range.upperBound {
      // Four bf16 values of magnitude 2^-7 to 2^-4 with random signs and fractions.
      for index in block.indices {
        block[index] = ((generator.next() & 0x81FF_81FF_81FF_81FF) | 0x3C00_3C00_3C00_3C00) ^ (moves.next() & moved)
      }
      let count = min(block.count * 8, range.upperBound - position)
      let bytes = block.span.bytes
      try file.write(bytes.extracting(first: count), at: position)
      position += count
    }
  }

  /// Makes an adapter with random A and B.
  private func makeAdapter(_ name: String, targets: ModuleRule, dora: Bool = false) throws {
    let path = adapter(name)
    guard FileSystem.kind(path) == nil else { return }
    var config = PeftConfig()
    config.rank = 16
    config.alpha = 32
    config.taskType = "CAUSAL_LM"
    config.targetModules = targets
    // With a random B the merge changes every element; magnitudes need a B of zero.
    config.useDoRA = dora
    config.initLoRAWeights = .bool(dora)
    let base = try BaseModel(path: base, taskType: config.taskType)
    try AdapterInitializer(base: base, config: config, configPath: "peft-bench", seed: 1).write(to: path)
  }
}

/// SplitMix64: fast and good enough to fill files with.
struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
