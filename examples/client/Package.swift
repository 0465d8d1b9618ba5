// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "client",
  dependencies: [.package(name: "peft-tool", path: "../..")],
  targets: [
    .executableTarget(
      name: "client",
      dependencies: [
        .product(name: "PEFT", package: "peft-tool"), .product(name: "TensorFiles", package: "peft-tool"),
      ])
  ]
)
