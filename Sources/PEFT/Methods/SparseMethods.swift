internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// SHiRA: a few elements of W get a value added; their places are stored.
  ///
  /// Source: peft/tuners/shira/layer.py `Linear.get_delta_weight`.
  static let shira = AdapterMethod(
    type: PeftType(rawValue: "SHIRA"),
    defaults: """
      {"fan_in_fan_out": false, "init_weights": true, "mask_type": "random", "modules_to_save": null, "r": 32, \
      "random_seed": null, "target_modules": null}
      """,
    prefixes: ["shira_"], buffers: ["shira_indices"],
    merging: .rule { module throws(AdapterError) in
      let shape = module.shape
      let values = try module.tensor("shira_weight", "[n]") { $0.count == 1 }
      let places = try module.tensor("shira_indices", [2, values.shape[0]])
      let count = values.shape[0]
      let indices = try module.indices(places, in: 0..<max(shape.output, shape.input))
      guard indices.prefix(count).allSatisfy({ $0 < shape.output }),
        indices.dropFirst(count).allSatisfy({ $0 < shape.input })
      else {
        throw .methodIndex(path: module.file.path, tensor: places.entry.name, limit: min(shape.output, shape.input))
      }
      return SparseRule(values: values, places: (0..<count).map { indices[$0] * shape.input + indices[count + $0] })
    },
    start: .modules([.linear], freshShira), defaultTargets: DefaultTargets.queriesAndValuesOfPhi)

  /// Super-tuning: some elements of W get a value added, and W a plain LoRA beside it.
  ///
  /// Source: peft/tuners/supertuning/layer.py `get_delta_weight`, `_lora_delta`.
  static let superTuning = AdapterMethod(
    type: PeftType(rawValue: "SUPERTUNING"),
    defaults: """
      {"init_weights": true, "lora_alpha": null, "lora_dropout": 0.0, "modules_to_save": null, "r": null, \
      "save_precomputed_indices": true, "select_top": true, "sparsity": 0.99, "target_modules": null}
      """,
    prefixes: ["supertuning_"], buffers: ["supertuning_indices"],
    merging: .rule { module throws(AdapterError) in
      let shape = module.shape
      let values = try module.tensor("supertuning_values", "[n]") { $0.count == 1 }
      guard module.tensors["supertuning_indices"] != nil else {
        throw module.refuse(
          "its places were not saved; they are those of the weight's greatest elements, whose order is not defined where "
            + "elements are equal.")
      }
      let places = try module.tensor("supertuning_indices", values.shape)
      let indices = try module.indices(places, in: 0..<shape.output * shape.input)
      var rule = SparseRule(values: values, places: indices)
      if module.tensors["supertuning_lora_A.weight"] != nil {
        let a = try module.tensor("supertuning_lora_A.weight", "[r, \(shape.input)]") {
          $0.count == 2 && $0[1] == shape.input
        }
        rule.lowRank = (
          a, try module.tensor("supertuning_lora_B.weight", [shape.output, a.shape[0]]),
          try module.number("lora_alpha") / module.number("r")
        )
      }
      return rule
    },
    start: .modules([.linear], freshSuperTuning))
}

/// Source: peft/tuners/shira/mask_functions.py `random_mask`; layer.py `ShiraLayer.update_layer`.
private func freshShira(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  guard module.setting("mask_type") == .string("random") else {
    throw module.refuse("mask_type", expected: "random")
  }
  let (count, all) = (try module.rank() * (module.output + module.input), module.output * module.input)
  guard count <= all else { throw module.refuse("r", expected: "less than the weight's \(all) elements") }
  let weight =
    module.startsNeutral() ? try source.filled("shira_weight", [count]) : try source.normal("shira_weight", [count])
  // Without a seed it is that of every new generator of torch.
  let seed =
    module.setting("random_seed") == .null
    ? 67_280_421_310_721 : UInt64(bitPattern: Int64(try module.integer("random_seed", Int.min...Int.max)))
  var generator = TorchGenerator(seed: seed)
  let places = generator.permutation(of: all, first: count).sorted()
  return [
    weight,
    FreshTensor(
      "shira_indices", [2, count], wholes: places.map { $0 / module.input } + places.map { $0 % module.input }, .i32),
  ]
}

/// The places are those of the weight's greatest elements, the greatest first; where elements are equal, the earlier first.
///
/// Source: peft/tuners/supertuning/layer.py `SupertuningLayer.update_layer`.
private func freshSuperTuning(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor]
{
  let weight = try module.weight().values
  let count = Int(Double(weight.count) * (1 - (try module.number("sparsity"))))
  guard (1...weight.count).contains(count) else {
    throw module.refuse("sparsity", expected: "a number below one that leaves elements")
  }
  let takesGreatest = module.flag("select_top")
  let order = weight.indices.sorted {
    let (one, other) = (weight[$0].magnitude, weight[$1].magnitude)
    return one == other ? $0 < $1 : takesGreatest ? one > other : one < other
  }
  let isNeutral = module.startsNeutral()
  var tensors = [
    isNeutral ? try source.filled("supertuning_values", [count]) : try source.normal("supertuning_values", [count])
  ]
  if module.flag("save_precomputed_indices") {
    tensors.append(FreshTensor("supertuning_indices", [count], wholes: Array(order.prefix(count)), .i32))
  }
  guard module.setting("r") != .null else { return tensors }
  let rank = try module.rank()
  let (nameA, shapeA) = ("supertuning_lora_A.weight", [rank, module.input])
  let (nameB, shapeB) = ("supertuning_lora_B.weight", [module.output, rank])
  // Linear layers draw their weights when they are made, and then again.
  _ = try source.uniform(nameA, shapeA, fanIn: module.input)
  _ = try source.uniform(nameB, shapeB, fanIn: rank)
  tensors.append(try source.uniform(nameA, shapeA, fanIn: module.input))
  tensors.append(isNeutral ? try source.filled(nameB, shapeB) : try source.uniform(nameB, shapeB, fanIn: rank))
  return tensors
}

/// Values that are added at places of the weight, counted row by row.
private struct SparseRule: WeightRule {
  let values: StoredTensor
  let places: [Int]
  var lowRank: (a: StoredTensor, b: StoredTensor, scale: Double)?

  var isAdditive: Bool { true }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let values = try values.values(Scalar.self)
    let ordered = zip(places, values).sorted { $0.0 < $1.0 }
    let a = try lowRank?.a.matrix(Scalar.self)
    let b = try lowRank?.b.matrix(Scalar.self)
    let factor = Scalar(lowRank?.scale ?? 0) * scale
    return { rows, block in
      let (start, end) = (rows.lowerBound * block.columns, rows.upperBound * block.columns)
      var (low, high) = (0, ordered.count)
      while low < high {
        let middle = (low + high) / 2
        if ordered[middle].0 < start { low = middle + 1 } else { high = middle }
      }
      while low < ordered.count, ordered[low].0 < end {
        block.values[ordered[low].0 - start] += scale * ordered[low].1
        low += 1
      }
      if let a, let b { block.add(b.rows(rows), times: a, scale: factor) }
    }
  }
}
