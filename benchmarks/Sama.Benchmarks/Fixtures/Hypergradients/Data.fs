/// Problems P1 to P4 and P7 of the fixtures: the oracle's records from json, as losses of tensors.
module Sama.Fixtures.Hypergradients.Data

open System.Text.Json
open Sama
open Sama.Reference
open Sama.Fixtures.Hypergradients.Json

let leastSquares (d: JsonElement) : LeastSquares =
    { MetaMatrix = matrix "metaMatrix" d
      MetaTarget = vector "metaTarget" d
      CrossMatrix = matrix "crossMatrix" d
      BaseMatrix = matrix "baseMatrix" d
      BaseTarget = vector "baseTarget" d }

let private quadratic (d: JsonElement) : Quadratic =
    let form side =
        { Theta = matrix $"{side}Theta" d
          Lambda = matrix $"{side}Lambda" d
          Cross = matrix $"{side}Cross" d
          LinearTheta = vector $"{side}LinearTheta" d
          LinearLambda = vector $"{side}LinearLambda" d }

    { Base = form "base"
      Meta = form "meta" }

let private regression targets (d: JsonElement) : Regression =
    { TrainInputs = matrix "trainInputs" d
      TrainTargets = vector $"train{targets}" d
      ValidationInputs = matrix "validationInputs" d
      ValidationTargets = vector $"validation{targets}" d }

let private smooth (d: JsonElement) : Smooth =
    { Axes = matrix "axes" d
      Spectrum = vector "spectrum" d
      Stretch = matrix "stretch" d
      Linear = vector "linear" d
      LinearLambda = matrix "linearLambda" d
      CoshWeights = vector "coshWeights" d
      CoshTheta = matrix "coshTheta" d
      CoshLambda = matrix "coshLambda" d
      MetaMatrix = matrix "metaMatrix" d
      MetaTarget = vector "metaTarget" d
      MetaTheta = vector "metaTheta" d
      MetaLambda = vector "metaLambda" d
      MetaSine = vector "metaSine" d }

/// The losses of an object with `problem` (its formula in words, "P1 …") and `data`.
let losses (json: JsonElement) : Suite.Losses =
    let data = item "data" json

    match (text "problem" json).Substring(0, 2) with
    | "P1" -> Suite.leastSquares (leastSquares data)
    | "P2" -> Suite.quadratic (quadratic data)
    | "P3" -> Suite.logistic (regression "Labels" data)
    | "P4" -> Suite.ridge (regression "Targets" data)
    | "P7" -> Suite.smooth (smooth data)
    | other -> invalidArg "problem" $"a fixture holds the problem '{other}'; known are P1 to P4 and P7"
