/// A data set made from a seeded grammar of questions, with keyword rules that are right about half the time.
module NoisyText.Generator

open System
open Sama.DataOptimization

let private openers =
    [| [ "who"; "which one"; "name the one" ]
       [ "where"; "in which place"; "from where" ]
       [ "how many"; "how long"; "when" ]
       [ "what"; "how"; "define what" ] |]

let private fillers =
    "is was did does the a of in for by near with about after before old new first best last".Split ' '

let private classes = openers.Length

/// Nouns of each class: made-up words of three syllables, none twice.
let private lexicon (random: Random) : string[][] =
    let syllables =
        [| for c in "bdfgklmnprstvz" do
               for v in "aeiou" -> $"{c}{v}" |]

    Seq.initInfinite (fun _ -> String.Join("", random.GetItems(syllables, 3)))
    |> Seq.distinct
    |> Seq.take (classes * 80)
    |> Seq.chunkBySize 80
    |> Array.ofSeq

/// A rule votes where one of its nouns occurs. Two of a class vote for it, two for another class.
type private Rule = { Nouns: Set<string>; Vote: int }

let private rules (random: Random) (nouns: string[][]) : Rule[] =
    let some count (nouns: string[]) =
        let nouns = Array.copy nouns
        random.Shuffle nouns
        Set.ofArray nouns[.. count - 1]

    [| for c in 0 .. classes - 1 do
           for vote in [ c; c; (c + 1) % classes; (c + 2) % classes ] ->
               { Nouns = some 20 nouns[c]
                 Vote = vote } |]

/// Of three nouns two are of the question's class; the opener is, beyond chance, one time in four.
let private question (random: Random) (nouns: string[][]) (rules: Rule[]) (number: int) : Row =
    let pick (items: 'a seq) =
        Seq.item (random.Next(Seq.length items)) items

    let label = random.Next classes
    let other () = random.Next classes

    let opener = pick openers[if random.Next 4 = 0 then label else other ()]

    let content = [| pick nouns[label]; pick nouns[label]; pick nouns[other ()] |]
    random.Shuffle content

    let words =
        [| yield opener
           for noun in content do
               yield pick fillers
               yield noun |]

    { Id = string number
      Line = number
      Text = String.Join(' ', words)
      Label = label
      Truth = label
      Votes =
        rules
        |> Array.map (fun rule ->
            if Array.exists rule.Nouns.Contains content then
                rule.Vote
            else
                -1) }

/// 5,000 training, 200 validation and 1,000 test questions of four kinds.
let generate (seed: int) : WrenchSplits =
    let random = Random seed
    let nouns = lexicon random
    let rules = rules random nouns

    let rows count =
        { Name = "generated"
          Classes = Array.init classes (fun c -> $"kind {c}")
          Rules = rules |> Array.mapi (fun number _ -> $"rule {number}")
          Rows = Array.init count (question random nouns rules) }

    { Train = rows 5000
      Valid = rows 200
      Test = rows 1000 }
