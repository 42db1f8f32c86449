/// A data set made from a seeded grammar of questions, with keyword rules that are right about half the time.
module NoisyText.Generator

open System
open NoisyText.Dataset

let private words =
    dict
        [ "noun",
          "bridge river engine poem treaty comet violin harbour garden fossil lantern compass turbine glacier anthem"
          "role", "captain painter king doctor inventor singer explorer judge farmer poet"
          "verb", "built found painted crossed wrote lost opened discovered repaired sold"
          "place", "lisbon kyoto peru norway cairo texas quito bergen malta ghana"
          "region", "country city island state desert valley province"
          "filler", "please quickly really exactly today once ever then first again" ]

let private templates =
    [| [ "who verb the noun"
         "which role verb the noun"
         "name the role that verb the noun"
         "what is the name of the role of place"
         "what role verb the noun in place" ]
       [ "where is the noun of place"
         "which region has the noun"
         "what region lies near place"
         "name the region where the role verb the noun"
         "what is the region of the noun" ]
       [ "how many roles verb the noun"
         "when was the noun of place verb"
         "what year did place get the noun"
         "how far is place from the noun"
         "what is the length of the noun in place" ]
       [ "what is a noun"
         "what does the noun of a role mean"
         "define the noun"
         "how does the noun of place work"
         "how is a noun verb" ] |]

/// A keyword and the class it votes for.
let private rules =
    [| "who", 0
       "which", 0
       "name", 0
       "role", 0
       "where", 1
       "region", 1
       "near", 1
       "which", 1
       "in", 1
       "how", 2
       "many", 2
       "when", 2
       "place", 2
       "what", 3
       "define", 3
       "is", 3
       "what", 2
       "the", 0 |]

let private question (random: Random) (label: int) =
    let pick (items: 'a[]) = items[random.Next items.Length]
    let template = (pick (Array.ofList templates[label])).Split ' '

    let word (slot: string) =
        let plural = slot = "roles"
        let slot = if plural then "role" else slot

        match words.TryGetValue slot with
        | true, choices -> pick (choices.Split ' ') + (if plural then "s" else "")
        | _ -> slot

    let filler =
        if random.NextDouble() < 0.5 then
            [| pick (words["filler"].Split ' ') |]
        else
            [||]

    // a rule sees the template: its keyword may be the name of a slot, and it misses one time in four
    let vote (keyword, label) =
        if Array.contains keyword template && random.NextDouble() < 0.75 then
            label
        else
            -1

    { Text = String.Join(' ', Array.append (Array.map word template) filler)
      Label = label
      Votes = Array.map vote rules }

/// 2,000 training, 200 validation and 500 test questions of four kinds.
let generate (seed: int) : Dataset =
    let random = Random seed

    let rows count =
        [| for _ in 1..count -> question random (random.Next templates.Length) |]

    { Name = "generated"
      Classes = templates.Length
      Rules = rules.Length
      Train = rows 2000
      Valid = rows 200
      Test = rows 500 }
