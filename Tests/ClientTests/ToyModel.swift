import PEFT
import TensorFiles
import TestSupport

/// Files of a small model of `ToyArchitecture`, with values drawn from a seed.
struct ToyModel {
  let directory: String

  init(_ directory: String) throws {
    self.directory = directory
    try FileSystem.makeDirectory(directory)
    try overwrite(
      FileSystem.join(directory, "config.json"),
      """
      {"model_type": "\(ToyArchitecture.type)", "architectures": ["ToyForCausalLM"], "width": 16, "inner": 24, "heads": 2,
       "words": 40, "context": 32, "cells": 2}
      """)
    var shapes: [(String, [Int])] = [("net.words.weight", [40, 16]), ("net.places.weight", [32, 16])]
    for cell in 0..<2 {
      for norm in ["first", "second"] {
        shapes += [("net.cells.\(cell).\(norm).weight", [16]), ("net.cells.\(cell).\(norm).bias", [16])]
      }
      shapes += [
        ("net.cells.\(cell).look.mix.weight", [48, 16]), ("net.cells.\(cell).look.back.weight", [16, 16]),
        ("net.cells.\(cell).look.back.bias", [16]), ("net.cells.\(cell).up.weight", [24, 16]),
        ("net.cells.\(cell).up.bias", [24]), ("net.cells.\(cell).down.weight", [16, 24]),
        ("net.cells.\(cell).down.bias", [16]),
      ]
    }
    shapes.append(("out.weight", [40, 16]))
    let layout = try SafetensorsLayout(
      path: "", items: shapes.map { SafetensorsLayout.Item(name: $0.0, dtype: .f32, shape: $0.1) })
    let file = try layout.create(at: FileSystem.join(directory, "model.safetensors"))
    var generator = SeededGenerator(seed: 7)
    for entry in layout.entries {
      let values = (0..<entry.elementCount).map { _ in Float.random(in: -0.5...0.5, using: &generator) }
      try file.write(values.span.bytes, at: entry.byteRange.lowerBound)
    }
  }
}
