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
    })

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
    })
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
