@database
Feature: A stored plan is the plan that was meant
  Many people and programs work on the same plans: what one of them stored,
  the next one must find, whole, or be told why not.

  Rule: A plan is found again as it was

    Scenario: A plan with everything in it
      Given a plan with every field set
      When it is stored and looked up again
      Then it is the same plan

    Scenario Outline: A plan on its way
      Given a plan that is <state> in the <phase> phase
      When it is stored and looked up again
      Then it is the same plan

      Examples:
        | state       | phase      |
        | queued      | action     |
        | processing  | strategize |
        | errored     | execute    |
        | constrained | apply      |
        | applied     | apply      |
        | cancelled   | strategize |

    Scenario: A plan is stored after each step
      Given a stored plan that was created under "cautious"
      When it is worked on until it is applied, and stored after each step
      Then the stored plan is applied in the apply phase
      And the stored plan has the snapshot of "cautious"

    Scenario: A plan that went back
      Given a stored plan that is processing in the execute phase
      When it reverts and is stored
      Then the stored plan is queued in the strategize phase
      And the stored plan went back 1 time

  Rule: A plan is born with its profile

    Scenario: It is stored with the plan
      Given a plan that was created under "cautious"
      When it is stored and looked up again
      Then the plan has the snapshot of "cautious"

    Scenario: A plan without a chosen profile
      Given a plan that is queued in the action phase
      When it is stored and looked up again
      Then it is under "balanced", the default
      And the plan has the snapshot of "balanced"

    Scenario: A new plan without a snapshot is given one
      Given a plan from before snapshots
      When it is stored and looked up again
      Then the plan has the snapshot of "balanced"

    Scenario: A snapshot that was not taken stays empty
      Given a stored plan from before snapshots
      When a client changes its description and stores it
      Then the stored plan has an empty snapshot

    Scenario: The snapshot cannot be changed
      Given a stored plan that was created under "cautious"
      When a client tries to store it with another snapshot
      Then the error says "it says what the profile was when the plan was created"
      And the stored plan has the snapshot of "cautious"

  Rule: What a program leaves out has a default

    Scenario: Another program stores a plan
      When another program stores a plan and leaves out every column with a default
      Then the stored plan is queued in the action phase
      And the stored plan is under "balanced", the default
      And the stored plan has an empty snapshot

  Rule: A plan stays in the tree in which it was created

    Scenario: A root is its own root
      Given a plan that is queued in the action phase
      When it is stored and looked up again
      Then it is the root of its tree

    Scenario: A tree is listed
      Given the stored plan "house" with the child "roof" and the grandchild "tiles"
      When the tree of "tiles" is listed
      Then "house", "roof" and "tiles" are listed

    Scenario: A plan in the middle is deleted
      Given the stored plan "house" with the child "roof" and the grandchild "tiles"
      When a client deletes "roof"
      Then "tiles" has no parent any more
      And "tiles" still belongs to the tree of "house"

    Scenario: A root that others name stays
      Given the stored plan "house" with the child "roof" and the grandchild "tiles"
      When a client tries to delete "house"
      Then the error says "is the root of 2 other plans"
      And 3 plans are stored

    Scenario: A tree is deleted as a whole
      Given the stored plan "house" with the child "roof" and the grandchild "tiles"
      And a stored plan that was created under "cautious"
      When a client deletes the whole tree of "house"
      Then 1 plan is stored

    Scenario: A child comes after its parent
      Given a plan that is processing in the execute phase
      When a client tries to store a child of it first
      Then the error says "which is not stored; add that one first"
      And 0 plans are stored

  Rule: The second of two writers gets a conflict

    Scenario: The plan was changed after it was read
      Given a stored plan that two clients have read
      And the first of them begins it
      When the second of them tries to cancel it
      Then the error says "was changed or deleted by another writer"
      And the stored plan is processing in the action phase

    Scenario: The plan was deleted after it was read
      Given a stored plan that two clients have read
      And the first of them deletes it
      When the second of them tries to cancel it
      Then the error says "is not stored: add() it if it is new; otherwise it was deleted since it was read"
      And 0 plans are stored

    Scenario: A writer who reads again can go on
      Given a stored plan that two clients have read
      And the first of them begins it
      When the second of them reads it again and cancels it
      Then the stored plan is cancelled in the action phase

  Rule: A damaged plan is reported, and hides no other

    Scenario: The others are listed
      Given the stored plan "house" with the child "roof" and the grandchild "tiles"
      And "roof" is damaged
      When all plans are listed
      Then "house" and "tiles" are listed
      And it is reported what is wrong with "roof"

    Scenario: It is not read as something else
      Given the stored plan "house" with the child "roof" and the grandchild "tiles"
      And "roof" is damaged
      When a client tries to read "roof"
      Then the error says "cannot be read"
      And the error says "repair the row or restore it from a backup"
