@former_database
Feature: A rollback gives the database back to the former release
  Who must take a release back has trouble enough: the former one must find
  every plan, and must be able to read it.

  Rule: The former release can read every plan

    Scenario: Plans that were created meanwhile
      Given the database was upgraded
      And the stored plan "house" with the child "roof" and the grandchild "tiles"
      When the database is rolled back
      Then the former release reads these plans
        | plan  | part of | tree  | profile |
        | house |         |       |         |
        | roof  | house   | house |         |
        | tiles | roof    | house |         |

    Scenario Outline: A profile that somebody chose
      Given the database was upgraded
      And a stored plan for which the project named the profile "<profile>"
      When the database is rolled back
      Then the former release reads that plan's profile as "<profile> by the project"

      Examples:
        | profile  |
        | trusted  |
        | balanced |

    Scenario: A profile that another program wrote as a bare name
      Given the database was upgraded
      And another program stored a plan under "trusted"
      When the database is rolled back
      Then the former release reads that plan's profile as "trusted by nobody"

    Scenario: A plan in the middle of its tree was deleted meanwhile
      Given the database was upgraded
      And the stored plan "house" with the child "roof" and the grandchild "tiles"
      And somebody deleted "roof"
      When the database is rolled back
      Then the former release reads these plans
        | plan  | part of | tree  | profile |
        | house |         |       |         |
        | tiles |         | house |         |

  Rule: No profile on record is lost

    Scenario: The next upgrade brings it back
      Given the database was upgraded
      And a stored plan that was created under "cautious"
      And the database was rolled back
      When the database is upgraded
      Then the stored plan has all that "cautious" says on record

    Scenario: The former release works on the plan meanwhile
      Given the database was upgraded
      And a stored plan that was created under "cautious"
      And the database was rolled back
      And the former release begins it
      When the database is upgraded
      Then the stored plan is processing in the action phase
      And the stored plan has all that "cautious" says on record

    Scenario: That of a plan which was deleted meanwhile goes with it
      Given the database was upgraded
      And a stored plan that was created under "cautious"
      And the database was rolled back
      And the former release deletes it
      When the database is upgraded
      Then 0 plans are stored
      And nothing is kept for later

  Rule: There and back again is where it began

    Scenario: Up and down again
      Given the former release left these plans
        | plan  | part of | tree  | profile                |
        | house |         |       |                        |
        | roof  | house   | house | trusted by the project |
        | tiles | roof    | house |                        |
      When the database is upgraded and rolled back
      Then nothing has changed

    Scenario: Down and up again
      Given the former release left these plans
        | plan  | part of | profile |
        | house |         |         |
        | roof  | house   | blanks  |
      And the database was upgraded
      And a stored plan that was created under "cautious"
      When the database is rolled back and upgraded
      Then nothing has changed

  Rule: What refers to plans still does

    Scenario: A correction of a plan stays
      Given the database was upgraded
      And the stored plan "house"
      And a correction of "house"
      When the database is rolled back
      Then there is a correction of "house"

    Scenario: A correction goes with its plan
      Given the database was upgraded
      And the stored plan "house"
      And a correction of "house"
      And the database was rolled back
      When the former release deletes it
      Then there is no correction
